"""RNN, GRU and LSTM against the equations of the specification in PyTorch, and against PyTorch's own layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch

import onnxgrad
from onnxgrad.passes.errors import UnsupportedError

from .checking import assert_close, run_runtime
from .recurrent_checking import (
    FUNCTIONS,
    HIDDEN,
    check_recurrent,
    forward_model,
    gradient_graph,
    sample_inputs,
)

OPERATORS = ["LSTM", "GRU", "RNN"]
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("LSTM", {"peepholes": True}, {}),
    ("LSTM", {"peepholes": True}, {"input_forget": 1, "clip": 0.5}),
    ("LSTM", {"bias": False}, {"input_forget": 1}),
    ("LSTM", {"peepholes": True, "directions": 2, "lengths": [4, 1, 2]}, {"direction": "bidirectional", "clip": 0.25}),
    ("LSTM", {"directions": 2, "lengths": [3, 0, 2], "batch_first": True}, {"direction": "bidirectional", "layout": 1}),
    ("GRU", {}, {"linear_before_reset": 1}),
    ("GRU", {"bias": False}, {"linear_before_reset": 1, "clip": 0.25}),
    ("GRU", {"directions": 2, "lengths": [3, 0, 2], "batch_first": True}, {"direction": "bidirectional", "layout": 1}),
    ("GRU", {"directions": 2, "lengths": [4, 1, 2]}, {"direction": "bidirectional", "linear_before_reset": 1}),
    ("RNN", {"directions": 2, "lengths": [3, 0, 2], "batch_first": True}, {"direction": "bidirectional", "layout": 1}),
]
ALPHAS_AND_BETAS = {
    "Affine": (0.75, 0.25),
    "Elu": (0.5, None),
    "HardSigmoid": (0.375, 0.25),
    "LeakyRelu": (0.125, None),
    "Relu": (None, None),
    "ScaledTanh": (0.75, 1.5),
    "Sigmoid": (None, None),
    "Softplus": (None, None),
    "Softsign": (None, None),
    "Tanh": (None, None),
    "ThresholdedRelu": (0.125, None),
}


@pytest.mark.parametrize("op_type", OPERATORS)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_directions(op_type: str, direction: str) -> None:
    inputs = sample_inputs(op_type, directions=1 + (direction == "bidirectional"))
    check_recurrent(op_type, inputs, {"direction": direction}, dtypes=(np.float16, np.float32, np.float64))


@pytest.mark.parametrize("op_type", OPERATORS)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_sequences_of_different_lengths(op_type: str, direction: str) -> None:
    check_recurrent(op_type, sample_inputs(op_type, lengths=[4, 1, 2]), {"direction": direction})


@pytest.mark.parametrize("op_type", OPERATORS)
def test_omitted_inputs_and_one_step(op_type: str) -> None:
    check_recurrent(op_type, sample_inputs(op_type, bias=False, states=False, steps=1))


@pytest.mark.parametrize("op_type", OPERATORS)
def test_clip(op_type: str) -> None:
    check_recurrent(op_type, sample_inputs(op_type), {"clip": 0.5})


@pytest.mark.parametrize(("op_type", "options", "attributes"), CASES)
def test_attributes(op_type: str, options: dict[str, Any], attributes: dict[str, Any]) -> None:
    check_recurrent(op_type, sample_inputs(op_type, **options), attributes, symbolic=[True])


@pytest.mark.parametrize("name", ALPHAS_AND_BETAS)
def test_activations(name: str) -> None:
    check_recurrent("RNN", sample_inputs("RNN", steps=3), activations([name]), symbolic=[False])


@pytest.mark.parametrize("names", [["Softplus", "Relu"], ["ThresholdedRelu", "Softsign"], ["ScaledTanh", "Elu"]])
def test_activations_of_gru(names: list[str]) -> None:
    check_recurrent("GRU", sample_inputs("GRU", steps=3, scale=0.5), activations(names), symbolic=[False])


@pytest.mark.parametrize("names", [["Softsign", "Relu", "Softplus"], ["Affine", "ThresholdedRelu", "LeakyRelu"]])
def test_activations_of_lstm(names: list[str]) -> None:
    check_recurrent("LSTM", sample_inputs("LSTM", steps=3, scale=0.5), activations(names), symbolic=[False])


def test_activations_of_two_directions() -> None:
    names = ["HardSigmoid", "LeakyRelu", "ScaledTanh", "Sigmoid", "Elu", "Affine"]
    attributes = {"direction": "bidirectional", "clip": 1.5, **activations(names)}
    check_recurrent("LSTM", sample_inputs("LSTM", directions=2, scale=0.5), attributes, symbolic=[False])


@pytest.mark.parametrize("name", ["Elu", "HardSigmoid", "LeakyRelu", "ThresholdedRelu"])
def test_constants_by_default(name: str) -> None:
    check_recurrent("RNN", sample_inputs("RNN", scale=1.0), {"activations": [name]}, symbolic=[False])


def activations(names: list[str]) -> dict[str, Any]:
    """The attributes for *names*, each with constants of its own."""
    constants = [ALPHAS_AND_BETAS[name] for name in names]
    attributes = {
        "activation_alpha": [alpha + 0.0625 * i for i, (alpha, _) in enumerate(constants) if alpha is not None],
        "activation_beta": [beta + 0.0625 * i for i, (_, beta) in enumerate(constants) if beta is not None],
    }
    return {"activations": names, **{name: values for name, values in attributes.items() if values}}


@pytest.mark.parametrize(
    ("op_type", "outputs"), [("LSTM", [0]), ("LSTM", [1]), ("LSTM", [2]), ("LSTM", [0, 2]), ("GRU", [1]), ("RNN", [1])]
)
def test_some_outputs(op_type: str, outputs: list[int]) -> None:
    inputs = sample_inputs(op_type, lengths=[4, 1, 2])
    check_recurrent(op_type, inputs, outputs=outputs, symbolic=[False])


@pytest.mark.parametrize("index", [0, 1, 2, 3, 5, 6, 7])
def test_one_input(index: int) -> None:
    check_recurrent("LSTM", sample_inputs("LSTM", peepholes=True), wrt=[index], symbolic=[False])


def test_kinks() -> None:
    """At 0 Relu has slope 0, and at the bounds of the clip the gradient passes, as in PyTorch."""
    x = np.array([-1, -0.5, 0, 0.5, 1]).reshape(1, 5, 1)
    inputs = [x, np.ones((1, 1, 1)), np.zeros((1, 1, 1))]
    attributes = {"hidden_size": 1, "activations": ["LeakyRelu"], "activation_alpha": [0.25], "clip": 0.5}
    check_recurrent("RNN", inputs, attributes, symbolic=[False], second_order=False)
    check_recurrent("RNN", inputs, {"hidden_size": 1, "activations": ["Relu"]}, symbolic=[False], second_order=False)


@pytest.mark.parametrize("op_type", OPERATORS)
def test_what_stands_behind_the_end_of_a_sequence_has_no_influence(op_type: str) -> None:
    inputs = sample_inputs(op_type, lengths=[4, 1, 2])
    model = gradient_graph(forward_model(op_type, inputs, {"hidden_size": HIDDEN}, [0, 1], np.float64), ["x0", "x1"])
    feeds = {f"x{index}": array for index, array in enumerate(inputs) if array is not None}
    feeds |= {"y0.seed": np.ones((4, 1, 3, HIDDEN)), "y1.seed": np.ones((1, 3, HIDDEN))}
    expected = run_runtime(model, feeds)
    feeds["x0"] = feeds["x0"].copy()
    feeds["x0"][1:, 1], feeds["x0"][2:, 2] = np.nan, np.inf
    for result, reference in zip(run_runtime(model, feeds), expected, strict=True):
        np.testing.assert_array_equal(result, reference)


@pytest.mark.parametrize(
    ("op_type", "options", "attributes"),
    [
        *((op_type, {}, {"clip": 0.5}) for op_type in OPERATORS),
        *((op_type, {"lengths": [4, 1, 2]}, {"direction": "reverse"}) for op_type in OPERATORS),
        *((op_type, options, attributes) for op_type, options, attributes in CASES if "layout" not in attributes),
        ("LSTM", {"scale": 0.5}, activations(["HardSigmoid", "LeakyRelu", "ScaledTanh"])),
        ("GRU", {"scale": 0.5}, activations(["Affine", "Elu"])),
        *(("RNN", {"scale": 0.5}, activations([name])) for name in ALPHAS_AND_BETAS),
    ],
)
def test_the_reference_is_what_the_runtime_computes(
    op_type: str, options: dict[str, Any], attributes: dict[str, Any]
) -> None:
    inputs = sample_inputs(op_type, **options)
    outputs = [0, 1, 2] if op_type == "LSTM" else [0, 1]
    attributes = {"hidden_size": HIDDEN, **attributes}
    model = forward_model(op_type, inputs, attributes, outputs, np.float32)
    feeds = {
        f"x{index}": array.astype(np.float32) if array.dtype.kind == "f" else array
        for index, array in enumerate(inputs)
        if array is not None
    }
    tensors = [None if array is None else torch.tensor(array) for array in inputs]
    results = FUNCTIONS[op_type](*tensors, **attributes)
    for result, expected in zip(run_runtime(model, feeds), results, strict=True):
        assert_close(result, expected.numpy(), 1e-5, "value")


@pytest.mark.parametrize(("op_type", "order"), [("LSTM", [0, 3, 1, 2]), ("GRU", [1, 0, 2]), ("RNN", [0])])
def test_layers_of_pytorch(op_type: str, order: list[int]) -> None:
    """A bidirectional layer of PyTorch, whose gates stand in another order, and its gradients by PyTorch's kernels."""
    torch.manual_seed(0)
    layer = getattr(torch.nn, op_type)(3, 5, bidirectional=True)
    x = torch.randn(6, 2, 3, requires_grad=True)
    y, _ = layer(x)
    seed = torch.randn_like(y)
    y.backward(seed)

    def stacked(name: str, gradient: bool) -> np.ndarray:
        tensors = [getattr(layer, f"{name}_l0{suffix}") for suffix in ("", "_reverse")]
        blocks = [(t.grad if gradient else t.detach()).chunk(len(order)) for t in tensors]
        return torch.stack([torch.cat([block[gate] for gate in order]) for block in blocks]).numpy()

    def parameters(gradient: bool) -> dict[str, np.ndarray]:
        biases = [stacked(name, gradient) for name in ("bias_ih", "bias_hh")]
        weights = {"w": stacked("weight_ih", gradient), "r": stacked("weight_hh", gradient)}
        return {**weights, "b": np.concatenate(biases, 1)}

    form = ", linear_before_reset = 1" if op_type == "GRU" else ""
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 17]> g (float[t,n,3] x) => (float[t,2,n,5] y) {{
            y = {op_type} <hidden_size = 5, direction = "bidirectional"{form}> (x, w, r, b)
        }}"""
    )
    weights = parameters(gradient=False)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    session = onnxgrad.compile(model, wrt=["x", "w", "r", "b"]).session()
    values, gradients = session.value_and_grad(
        {"x": x.detach().numpy()}, {"y": seed.reshape(6, 2, 2, 5).transpose(1, 2).numpy()}
    )
    assert_close(values["y"], y.detach().reshape(6, 2, 2, 5).transpose(1, 2).numpy(), 1e-5, "y")
    assert x.grad is not None
    for name, expected in {"x": x.grad.numpy(), **parameters(gradient=True)}.items():
        assert_close(gradients[name], expected, 1e-5, name)


BODY = """<ir_version: 10, opset_import: ["" : 18]>
g (float[t,n,2] x, int64 count, bool flag) => (float[t,n,2] y) <bool yes = {1}> {
    y = Loop (count, yes, x) <body = step (int64 i, bool c, float[t,n,2] xi) => (bool co, float[t,n,2] xo) {
        co = Identity (c)
        xo = If (flag) <then_branch = yes () => (float[t,n,2] then) {
            h = RNN <hidden_size = 2> (xi, w, r)
            one = Constant <value_ints = [1]> ()
            then = Squeeze (h, one)
        }, else_branch = no () => (float[t,n,2] other) { other = Neg (xi) }>
    }>
}"""


@pytest.mark.parametrize("flag", [True, False])
def test_in_the_branch_of_a_loop(flag: bool) -> None:
    _, w, r, *_ = sample_inputs("RNN")
    assert w is not None
    assert r is not None
    weights = {"w": w[:, :2].astype(np.float32), "r": r[:, :2, :2].astype(np.float32)}
    model = onnx.parser.parse_model(BODY)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    random = np.random.default_rng(0)
    x, seed = (random.standard_normal((3, 2, 2), dtype=np.float32) for _ in range(2))
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in {"x": x, **weights}.items()}
    y = leaves["x"]
    for _ in range(2):
        y = FUNCTIONS["RNN"](y, leaves["w"], leaves["r"])[0].squeeze(1) if flag else -y
    expected = torch.autograd.grad(y, list(leaves.values()), torch.tensor(seed), materialize_grads=True)
    session = onnxgrad.compile(model, wrt=["x", "w", "r"]).session()
    feeds = {"x": x, "count": np.array(2), "flag": np.array(flag)}
    values, gradients = session.value_and_grad(feeds, {"y": seed})
    assert_close(values["y"], y.detach().numpy(), 1e-5, "y")
    for name, gradient in zip(leaves, expected, strict=True):
        assert_close(gradients[name], gradient.numpy(), 1e-5, name)


def test_one_scan_forward_and_one_back() -> None:
    inputs = sample_inputs("LSTM")
    model = gradient_graph(forward_model("LSTM", inputs, {"hidden_size": HIDDEN}, [0], np.float32), ["x1", "x2"])
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Scan") == 2
    assert "LSTM" not in operators


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"direction": "sideways"}, "direction 'sideways'"),
        ({"activations": ["Swish"]}, "'Swish'"),
        ({"activations": ["Affine"]}, "Affine has no default alpha; give it in the attribute `activation_alpha`"),
        ({"hidden_size": 4}, r"the shape of 'x1' is \(1, 3, 2\), where its hidden_size of 4"),
        ({"activations": ["Tanh"], "direction": "bidirectional"}, "`activations` must name 2 functions"),
    ],
)
def test_attributes_outside_the_specification(attributes: dict[str, Any], message: str) -> None:
    inputs = sample_inputs("RNN", directions=1 + ("bidirectional" in attributes.values()))
    model = forward_model("RNN", inputs, {"hidden_size": HIDDEN, **attributes}, [0], np.float32)
    with pytest.raises(UnsupportedError, match=f"node.*{message}"):
        gradient_graph(model, ["x0"])
