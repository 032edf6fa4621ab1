"""What `compile` differentiates, with respect to what, under which names; values against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

import onnxgrad
from onnxgrad.compiler.signature import SIGNATURE_KEY
from tests.compiler.forward_models import MLP_WEIGHTS, mlp, parse, random, torch_gradients, torch_mlp

X, SEED = random(6, 4), random(6, 3, seed=9)
WEIGHTS = list(MLP_WEIGHTS)


def check(program: onnxgrad.Program, names: list[str]) -> None:
    """The gradients of the MLP are those of *names*, and PyTorch's."""
    gradients = program.session().grad({"x": X}, {"logits": SEED})
    assert list(gradients) == names
    for name, expected in torch_gradients(names, X, SEED).items():
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("wrt", "names"),
    [
        ("parameters", WEIGHTS),
        ("inputs", ["x"]),
        ("x", ["x"]),
        ("fc1.*", ["fc1.weight", "fc1.bias"]),
        (["*.bias", "x"], ["fc1.bias", "fc2.bias", "x"]),
        (["fc2.weight", "fc2.*"], ["fc2.weight", "fc2.bias"]),
        ("hidden", ["hidden"]),
        (["fc1.weight", "hidden", "x"], ["fc1.weight", "hidden", "x"]),
    ],
)
def test_with_respect_to(wrt: Any, names: list[str]) -> None:
    check(onnxgrad.compile(mlp(), wrt=wrt), names)


def test_gradients_with_respect_to_an_output_are_the_seed() -> None:
    program = onnxgrad.compile(mlp(), wrt=["logits", "fc2.bias"])
    gradients = program.session().grad({"x": X}, {"logits": SEED})
    np.testing.assert_array_equal(gradients["logits"], SEED)
    np.testing.assert_allclose(gradients["fc2.bias"], SEED.sum(0), rtol=1e-5)


def test_names_of_the_joint_graph() -> None:
    program = onnxgrad.compile(mlp(), wrt="fc1.weight")
    names = [(port.name, port.role, port.of) for port in (*program.signature.inputs, *program.signature.outputs)]
    assert names == [
        ("x", "input", None),
        ("logits.grad_output", "grad_output", "logits"),
        ("fc1.weight", "parameter", None),
        ("logits", "output", None),
        ("fc1.weight.grad", "gradient", "fc1.weight"),
    ]
    assert [value.name for value in program.model.graph.inputs] == [port.name for port in program.signature.inputs]
    assert [value.name for value in program.model.graph.outputs] == [port.name for port in program.signature.outputs]


def test_names_in_accumulate_mode() -> None:
    signature = onnxgrad.compile(mlp(), wrt="fc1.weight", loss="cross_entropy", mode="accumulate").signature
    assert [port.name for port in signature.inputs_of("label")] == ["labels"]
    assert signature.loss == "loss"
    (buffer,) = signature.inputs_of("grad_buffer")
    (gradient,) = signature.outputs_of("grad_buffer")
    assert (buffer.name, buffer.partner) == ("fc1.weight.grad.buffer", "fc1.weight.grad")
    assert (gradient.name, gradient.partner) == ("fc1.weight.grad", "fc1.weight.grad.buffer")
    assert buffer.in_place
    assert gradient.in_place


def test_names_that_are_taken_are_not_taken_again() -> None:
    model = parse(
        """g (float[2, 3] labels) => (float[2, 3] loss) {
            "w.grad" = Mul (labels, w)
            loss = Tanh ("w.grad")
        }""",
        {"w": random(3)},
    )
    program = onnxgrad.compile(model, loss="mse", mode="accumulate")
    assert [port.name for port in program.signature.inputs_of("label")] == ["labels_1"]
    assert program.signature.loss == "loss_1"
    assert [port.name for port in program.signature.outputs_of("grad_buffer")] == ["w.grad_1"]
    session = program.session()
    session.backward({"labels": random(2, 3), "labels_1": random(2, 3, seed=1)})
    w = torch.tensor(random(3), requires_grad=True)
    value = torch.tanh(torch.tensor(random(2, 3)) * w)
    torch.nn.functional.mse_loss(value, torch.tensor(random(2, 3, seed=1))).backward()
    assert w.grad is not None
    np.testing.assert_allclose(session.grads["w"], w.grad.numpy(), rtol=1e-5)


def test_every_emitted_node_says_where_it_comes_from() -> None:
    program = onnxgrad.compile(mlp(), loss="cross_entropy", mode="accumulate")
    forward = {"fc1", "act", "fc2"}
    emitted = [node for node in program.model.graph if node.name not in forward]
    assert len(emitted) > 6
    for node in emitted:
        metadata = node.metadata_props
        assert metadata.get("onnxgrad.pass"), node
        if metadata["onnxgrad.pass"] == "differentiate" and "onnxgrad.forward_node" in metadata:
            assert node.name.startswith(f"{metadata['onnxgrad.forward_node']}.grad/"), node
            assert metadata["onnxgrad.rule"], node
    assert forward <= {node.metadata_props.get("onnxgrad.forward_node") for node in emitted}


TWO_OUTPUTS = """
    g (float[N, 3] x) => (float[N, 3] a, float b, int64[N] c) {
        s = Mul (x, w)
        a = Sin (s)
        t = Exp (s)
        b = ReduceSum <keepdims = 0> (t)
        c = ArgMax <axis = 1, keepdims = 0> (a)
    }"""


def torch_two_outputs(x: np.ndarray, w: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    tx, tw = torch.tensor(x, requires_grad=True), torch.tensor(w, requires_grad=True)
    return tx, tw, torch.sin(tx * tw), torch.exp(tx * tw).sum()


def test_several_outputs_each_with_its_seed() -> None:
    x, w, seed = random(4, 3), random(3), random(4, 3, seed=1)
    session = onnxgrad.compile(parse(TWO_OUTPUTS, {"w": w}), wrt=["w", "x"]).session()
    tx, tw, a, b = torch_two_outputs(x, w)
    for factor in (None, 0.5):
        given = {"a": seed} | ({} if factor is None else {"b": np.float32(factor)})
        gradients = session.grad({"x": x}, given)
        seeds = [torch.tensor(seed), torch.tensor(1.0 if factor is None else factor)]
        for name, expected in zip(
            ("w", "x"), torch.autograd.grad([a, b], [tw, tx], seeds, retain_graph=True), strict=True
        ):
            np.testing.assert_allclose(gradients[name], expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("outputs", ["b", ["b"], ["b", "b"]])
def test_some_outputs_only(outputs: Any) -> None:
    x, w = random(4, 3), random(3)
    program = onnxgrad.compile(parse(TWO_OUTPUTS, {"w": w}), outputs=outputs)
    assert [port.of for port in program.signature.inputs_of("grad_output")] == ["b"]
    outputs, gradients = program.session().value_and_grad({"x": x})
    _, tw, _, b = torch_two_outputs(x, w)
    assert list(outputs) == ["a", "b", "c"]
    np.testing.assert_allclose(gradients["w"], torch.autograd.grad(b, tw)[0].numpy(), rtol=1e-5)


def test_an_intermediate_output() -> None:
    program = onnxgrad.compile(mlp(), outputs="hidden", wrt=["fc1.weight", "x"])
    assert [port.name for port in program.signature.outputs_of("output")] == ["logits", "hidden"]
    seed = random(6, 5, seed=2)
    outputs, gradients = program.session().value_and_grad({"x": X}, {"hidden": seed})
    _, tensors = torch_mlp(X)
    expected = torch.autograd.grad(
        tensors["hidden"], [tensors["fc1.weight"], tensors["x"]], torch.tensor(seed), retain_graph=True
    )
    np.testing.assert_allclose(outputs["hidden"], tensors["hidden"].detach().numpy(), rtol=1e-5, atol=1e-6)
    for name, gradient in zip(("fc1.weight", "x"), expected, strict=True):
        np.testing.assert_allclose(gradients[name], gradient.numpy(), rtol=1e-5, atol=1e-6)


def test_a_loss_of_a_chosen_output() -> None:
    session = onnxgrad.compile(mlp(), outputs="hidden", loss="mse", wrt="fc1.bias").session()
    target = random(6, 5, seed=2)
    _, tensors = torch_mlp(X)
    loss = torch.nn.functional.mse_loss(tensors["hidden"], torch.tensor(target))
    outputs, gradients = session.value_and_grad({"x": X, "labels": target})
    np.testing.assert_allclose(outputs["loss"], loss.item(), rtol=1e-6)
    (expected,) = torch.autograd.grad(loss, tensors["fc1.bias"])
    np.testing.assert_allclose(gradients["fc1.bias"], expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_second_model_as_the_loss(tmp_path) -> None:
    loss = parse(
        """own (float[N, 3] logits, float[N, 3] target) => (float objective) {
            d = Sub (logits, target)
            s = Mul (d, d)
            objective = ReduceSum <keepdims = 0> (s)
        }"""
    )
    onnx.save(loss, tmp_path / "loss.onnx")
    target = random(6, 3, seed=5)
    logits, tensors = torch_mlp(X)
    value = ((logits - torch.tensor(target)) ** 2).sum()
    (expected,) = torch.autograd.grad(value, tensors["fc1.weight"])
    for given in (loss, ir.from_proto(loss), str(tmp_path / "loss.onnx"), tmp_path / "loss.onnx"):
        program = onnxgrad.compile(mlp(), loss=given, wrt="fc1.weight")
        assert [port.name for port in program.signature.inputs_of("label")] == ["target"]
        outputs, gradients = program.session().value_and_grad({"x": X, "target": target})
        np.testing.assert_allclose(outputs["loss"], value.item(), rtol=1e-5)
        np.testing.assert_allclose(gradients["fc1.weight"], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_saliency_at_inference() -> None:
    """The gradient of the winning score with respect to the image: no labels, no training around it."""
    model = parse(
        """g (float[N, 1, 6, 6] image) => (float[N, 4] scores) {
            c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, "conv.weight", "conv.bias")
            r = Relu (c)
            p = GlobalAveragePool (r)
            f = Flatten (p)
            scores = MatMul (f, "head.weight")
        }""",
        {"conv.weight": random(5, 1, 3, 3), "conv.bias": random(5), "head.weight": random(5, 4)},
    )
    session = onnxgrad.compile(model, wrt="inputs").session()
    image = random(2, 1, 6, 6, seed=3)
    winner = np.eye(4, dtype=np.float32)[session.run({"image": image})["scores"].argmax(1)]
    gradient = session.grad({"image": image}, {"scores": winner})["image"]

    weights = {i.name: torch.tensor(onnx.numpy_helper.to_array(i)) for i in model.graph.initializer}
    x = torch.tensor(image, requires_grad=True)
    features = torch.relu(torch.nn.functional.conv2d(x, weights["conv.weight"], weights["conv.bias"], padding=1))
    scores = features.mean((2, 3)) @ weights["head.weight"]
    (expected,) = torch.autograd.grad(scores.max(1).values.sum(), x)
    np.testing.assert_allclose(gradient, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_free_dims_fix_symbolic_sizes() -> None:
    program = onnxgrad.compile(mlp(), free_dims={"batch": 6}, wrt=["x", *WEIGHTS])
    shapes = {port.name: port.shape for port in (*program.signature.inputs, *program.signature.outputs)}
    assert shapes["x"] == shapes["x.grad"] == (6, 4)
    assert shapes["logits"] == shapes["logits.grad_output"] == (6, 3)
    assert "batch" not in {dim for shape in shapes.values() for dim in shape or ()}
    check(program, ["x", *WEIGHTS])


def test_free_dims_inside_expressions() -> None:
    model = parse(
        """g (float[batch, 2] a, float[seq, 2] b) => (float[rows, 2] y) {
            c = Concat <axis = 0> (a, b)
            y = Mul (c, w)
        }""",
        {"w": random(2)},
    )
    program = onnxgrad.compile(model, free_dims={"batch": 3})
    (seed,) = program.signature.inputs_of("grad_output")
    a, b, dy = random(3, 2), random(4, 2, seed=1), random(7, 2, seed=2)
    gradient = program.session().grad({"a": a, "b": b}, {"y": dy})["w"]
    assert seed.shape is not None
    assert "batch" not in str(seed.shape)
    np.testing.assert_allclose(gradient, (np.concatenate([a, b]) * dy).sum(0), rtol=1e-5)


@pytest.mark.parametrize("opset", [18, 21, 23, 26])
def test_the_opset_that_is_asked_for(opset: int) -> None:
    program = onnxgrad.compile(mlp(), opset=opset)
    assert program.model.opset_imports[""] == opset
    onnx.checker.check_model(ir.to_proto(program.model), full_check=True)
    check(program, WEIGHTS)


def test_the_lowest_opset_that_can_express_the_graph() -> None:
    assert onnxgrad.compile(mlp()).model.opset_imports[""] == 18
    gelu = parse("g (float[2, 3] x) => (float[2, 3] y) { h = Mul (x, w) y = Gelu (h) }", {"w": random(3)})
    assert onnxgrad.compile(gelu).model.opset_imports[""] == 20
    with pytest.raises(onnxgrad.UnsupportedError, match=r"Gelu node .* needs opset 20"):
        onnxgrad.compile(gelu, opset=18)


@pytest.mark.parametrize("form", ["proto", "ir", "path", "str"])
def test_the_callers_model_is_left_unchanged(form: str, tmp_path) -> None:
    proto = mlp()
    # What is renamed on the way: a tensor without a name of its own.
    proto.graph.node.append(
        onnx.helper.make_node("Constant", [], ["tail.bias"], value=onnx.numpy_helper.from_array(random(3)))
    )
    proto.graph.node.append(onnx.helper.make_node("Add", ["logits", "tail.bias"], ["y"]))
    proto.graph.output[0].name = "y"
    before = proto.SerializeToString(deterministic=True)
    onnx.save(proto, tmp_path / "m.onnx")
    model = {"proto": proto, "ir": ir.from_proto(proto), "path": tmp_path / "m.onnx", "str": f"{tmp_path}/m.onnx"}[form]
    program = onnxgrad.compile(model, loss="cross_entropy")
    assert proto.SerializeToString(deterministic=True) == before
    if isinstance(model, ir.Model):
        assert ir.to_proto(model).SerializeToString(deterministic=True) == ir.to_proto(
            ir.from_proto(proto)
        ).SerializeToString(deterministic=True)
    assert list(program.parameters) == [*WEIGHTS, "tail.bias"]


def test_the_callers_loss_model_is_left_unchanged() -> None:
    """Though its names are changed where the forward model has them too."""
    loss = parse(
        """own (float[N, 3] logits) => (float pre) {
            hidden = Mul (logits, "fc1.weight")
            pre = ReduceMean <keepdims = 0> (hidden)
        }""",
        {"fc1.weight": random(3)},
    )
    before = loss.SerializeToString(deterministic=True)
    gradients = onnxgrad.compile(mlp(), loss=loss, wrt="fc2.bias").session().grad({"x": X})
    np.testing.assert_allclose(gradients["fc2.bias"], random(3) / 3, rtol=1e-5)
    assert loss.SerializeToString(deterministic=True) == before


def test_compiling_does_not_depend_on_the_form(tmp_path) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    texts = {
        onnxgrad.compile(model).model.metadata_props[SIGNATURE_KEY]
        for model in (mlp(), ir.from_proto(mlp()), tmp_path / "m.onnx")
    }
    assert len(texts) == 1


def test_the_joint_graph_of_a_joint_graph_is_the_second_derivative() -> None:
    model = parse(
        """g (float[N, 3] x) => (float y) {
            a = Mul (x, w)
            s = Sin (a)
            c = Mul (s, a)
            y = ReduceSum <keepdims = 0> (c)
        }""",
        {"w": random(3)},
    )
    first = onnxgrad.compile(model, wrt="w")
    second = onnxgrad.compile(first.model, wrt=["w", "x"], outputs="w.grad")
    x, v = random(4, 3, seed=1), random(3, seed=2)
    gradients = second.session().grad({"x": x}, {"w.grad": v})

    tx, tw = torch.tensor(x, requires_grad=True), torch.tensor(random(3), requires_grad=True)
    a = tx * tw
    (inner,) = torch.autograd.grad((torch.sin(a) * a).sum(), tw, create_graph=True)
    expected = torch.autograd.grad(inner, [tw, tx], torch.tensor(v))
    assert list(gradients) == ["w", "x"]
    for name, gradient in zip(("w", "x"), expected, strict=True):
        np.testing.assert_allclose(gradients[name], gradient.numpy(), rtol=1e-4, atol=1e-5)
    # What the second one carries as its forward model is the first joint graph.
    assert second.original() == ir.to_proto(first.model)


def test_a_hessian_vector_product_of_a_loss() -> None:
    """Second derivatives through the loss, from a saved joint graph's own parameters."""
    first = onnxgrad.compile(mlp(), loss="cross_entropy", wrt="fc1.weight")
    second = onnxgrad.compile(first.model, wrt="fc1.weight", outputs="fc1.weight.grad")
    labels, v = np.array([0, 2, 1, 1, 0, 2]), random(5, 4, seed=7)
    product = second.session().grad({"x": X, "labels": labels}, {"fc1.weight.grad": v})["fc1.weight"]
    logits, tensors = torch_mlp(X)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
    (gradient,) = torch.autograd.grad(loss, tensors["fc1.weight"], create_graph=True)
    (expected,) = torch.autograd.grad(gradient, tensors["fc1.weight"], torch.tensor(v))
    np.testing.assert_allclose(product, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_each_pass_is_reported() -> None:
    seen = []
    program = onnxgrad.compile(mlp(), loss="mse", on_pass=lambda record, model: seen.append((record, len(model.graph))))
    assert tuple(record for record, _ in seen) == program.report
    names = [record.name for record in program.report]
    assert names.index("UpgradeOpset") < names.index("AttachLoss") < names.index("Differentiate") < len(names) - 1
    for record, nodes in seen:
        assert record.nodes_after == nodes
        assert record.seconds >= 0
    assert [r.nodes_before for r in program.report[1:]] == [r.nodes_after for r in program.report[:-1]]
