"""Checkpointing: the same gradients from less memory."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad
from onnxgrad.passes.checkpoint import AS_GOOD, COUNTS
from onnxgrad.passes.eliminate_common_subexpressions import RECOMPUTE
from onnxgrad.passes.flops import count_flops
from onnxgrad.passes.peak_memory import estimate_peak

LAYERS, BATCH, WIDTH = 12, 256, 64
SIZES = {"B": BATCH}


def network(*, dropout: bool = False) -> onnx.ModelProto:
    """Dense layers, each with a Softmax, a value that is wider than what crosses from one layer to the next."""
    lines, value = [], "x"
    for i in range(LAYERS):
        lines += [f"h{i} = MatMul ({value}, up{i})", f"s{i} = Softmax (h{i})", f"t{i} = Tanh (s{i})"]
        lines += [f"d{i}, m{i} = Dropout <seed = 7> (t{i}, ratio, training)"] if dropout else [f"d{i} = Sin (t{i})"]
        lines += [f"y{i} = MatMul (d{i}, down{i})"]
        value = f"y{i}"
    body = "\n".join(lines)
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[B, {WIDTH}] x) => (float[B, {WIDTH}] {value})'
        f"<float ratio = {{0.4}}, bool training = {{1}}> {{ {body} }}"
    )
    generator = np.random.default_rng(0)
    for i in range(LAYERS):
        for name, shape in ((f"up{i}", (WIDTH, 4 * WIDTH)), (f"down{i}", (4 * WIDTH, WIDTH))):
            weight = generator.standard_normal(shape, dtype=np.float32) / 4
            model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    return model


def gradients(program: onnxgrad.Program) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    feeds = {"x": generator.standard_normal((BATCH, WIDTH), dtype=np.float32)}
    (labels,) = program.signature.inputs_of("label")
    feeds[labels.name] = generator.standard_normal((BATCH, WIDTH), dtype=np.float32)
    return program.session(providers=["CPUExecutionProvider"]).grad(feeds)


def recomputed(program: onnxgrad.Program) -> list[str]:
    return [node.op_type for node in program.model.graph if RECOMPUTE in node.metadata_props]


def peak(program: onnxgrad.Program) -> int:
    return estimate_peak(program.model.graph, SIZES).bytes


@pytest.fixture(scope="module")
def plain() -> onnxgrad.Program:
    return onnxgrad.compile(network(), loss="mse")


@pytest.mark.parametrize("checkpoint", ["auto", 3, "y5", ["y2", "y8"], "y[258]"])
def test_the_gradients_are_the_same_and_the_estimate_falls(checkpoint: object, plain: onnxgrad.Program) -> None:
    program = onnxgrad.compile(network(), loss="mse", checkpoint=checkpoint, assume_dims=SIZES)
    assert program.signature == plain.signature
    assert peak(program) < (0.5 if checkpoint == "auto" else 0.8) * peak(plain)
    np.testing.assert_equal(gradients(program), gradients(plain))


def test_the_number_is_chosen_that_repeats_least_of_those_with_hardly_more_than_the_least_peak() -> None:
    def estimates(checkpoint: int | str) -> tuple[int, int]:
        program = onnxgrad.compile(network(), loss="mse", checkpoint=checkpoint, assume_dims=SIZES)
        graph = program.model.graph
        graph.outputs[:] = [value for value in graph.outputs if str(value.name).endswith(".grad")]
        repeated = [node for node in graph if RECOMPUTE in node.metadata_props]
        return estimate_peak(graph, SIZES).bytes, count_flops(repeated, SIZES).total

    tried = {estimates(count) for count in COUNTS}
    least = min(peak for peak, _ in tried)
    peak, flops = estimates("auto")
    assert peak <= AS_GOOD * least
    assert flops == min(flops for peak, flops in tried if peak <= AS_GOOD * least)


def test_each_node_is_repeated_once_at_most(plain: onnxgrad.Program) -> None:
    forward = [node.op_type for node in plain.forward(loss=True).graph]
    again = recomputed(onnxgrad.compile(network(), loss="mse", checkpoint="auto", assume_dims=SIZES))
    assert 0 < again.count("MatMul") < forward.count("MatMul")
    assert again.count("Softmax") <= forward.count("Softmax")


def test_only_what_lies_before_the_named_value_is_repeated() -> None:
    program = onnxgrad.compile(network(), loss="mse", checkpoint="y3")
    copies = [node for node in program.model.graph if RECOMPUTE in node.metadata_props]
    layers = {int(str(node.outputs[0].name).removesuffix(".recompute")[1:]) for node in copies}
    assert layers == {0, 1, 2, 3}


def test_the_mask_of_a_dropout_is_kept() -> None:
    """A mask drawn a second time would be another, and so would the gradients."""
    before = onnxgrad.compile(network(dropout=True), loss="mse")
    program = onnxgrad.compile(network(dropout=True), loss="mse", checkpoint="auto", assume_dims=SIZES)
    assert peak(program) < peak(before)
    assert "Dropout" not in recomputed(program)
    assert "Softmax" in recomputed(program)
    np.testing.assert_equal(gradients(program), gradients(before))


def test_a_budget_repeats_no_more_than_it_must(plain: onnxgrad.Program) -> None:
    def within(share: float) -> onnxgrad.Program:
        return onnxgrad.compile(network(), loss="mse", memory_budget=int(share * peak(plain)), assume_dims=SIZES)

    assert recomputed(within(1.0)) == []
    loose, tight = within(0.8), within(0.5)
    assert peak(loose) <= 0.8 * peak(plain)
    assert peak(tight) <= 0.5 * peak(plain)
    assert 0 < len(recomputed(loose)) < len(recomputed(tight))


def test_what_no_checkpoints_can_reach_is_an_error(plain: onnxgrad.Program) -> None:
    with pytest.raises(onnxgrad.Error, match=r"the least that is possible is [\d,]+ bytes"):
        onnxgrad.compile(network(), loss="mse", memory_budget=1000, assume_dims=SIZES)


def test_a_budget_needs_sizes() -> None:
    with pytest.raises(onnxgrad.Error, match=r"depends on B; .*--assume-dim B=32"):
        onnxgrad.compile(network(), loss="mse", memory_budget=10**9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": "y99"}, "'y99' is no value that the forward graph computes"),
        ({"checkpoint": ["y1", "z*"]}, r"'z\*' is no value"),
        ({"checkpoint": 0}, "at least 1, not 0"),
        ({"checkpoint": 2, "memory_budget": 5}, "not both"),
    ],
)
def test_bad_checkpoints(options: dict[str, object], message: str) -> None:
    with pytest.raises(onnxgrad.Error, match=message):
        onnxgrad.compile(network(), loss="mse", **options)


def test_the_joint_graph_can_be_differentiated_again() -> None:
    """The gradient of the sum of one gradient's elements, with and without checkpoints."""

    def second(**options: object) -> np.ndarray:
        first = onnxgrad.compile(network(), loss="mse", **options)
        program = onnxgrad.compile(first.model, wrt="down3", outputs="down2.grad")
        generator = np.random.default_rng(2)
        feeds = {"x": generator.standard_normal((4, WIDTH), dtype=np.float32)}
        (labels,) = first.signature.inputs_of("label")
        feeds[labels.name] = np.zeros((4, WIDTH), np.float32)
        seed = np.ones((4 * WIDTH, WIDTH), np.float32)
        return program.session(providers=["CPUExecutionProvider"]).grad(feeds, {"down2.grad": seed})["down3"]

    expected = second()
    np.testing.assert_allclose(second(checkpoint=3), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_one_value_larger_than_all_others_does_not_draw_the_cuts() -> None:
    """Behind it no layer is left to cut."""
    model = network()
    model.graph.node.append(onnx.helper.make_node("MatMul", [model.graph.output[0].name, "classes"], ["scores"]))
    classes = np.random.default_rng(2).standard_normal((WIDTH, 500 * WIDTH), dtype=np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(classes, "classes"))
    model.graph.output[0].name = "scores"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = classes.shape[1]
    copies = recomputed(onnxgrad.compile(model, loss="cross_entropy", checkpoint=2, assume_dims=SIZES))
    assert copies.count("Softmax") == 2 * LAYERS // 3
