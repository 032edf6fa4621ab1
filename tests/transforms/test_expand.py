"""The standard's training operators: ONNX's own cases, nested gradients, given points, and PyTorch as the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper

import onnxgrad
from tests.backend.cases import load_cases
from tests.transforms.running import run

TRAINING = "ai.onnx.preview.training"
CASES = [
    *("adagrad", "adagrad_multiple", "adam", "adam_multiple", "momentum", "momentum_multiple", "nesterov_momentum"),
    *("gradient_of_add", "gradient_of_add_and_mul"),
]


def gradient(inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node("Gradient", inputs, outputs, domain=TRAINING, **attributes)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int | str]],
    outputs: dict[str, int],
    *,
    dtype: int = TensorProto.FLOAT,
    weights: dict[str, np.ndarray] | None = None,
    integers: Sequence[str] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "training",
        [helper.make_tensor_value_info(n, TensorProto.INT64 if n in integers else dtype, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, [None] * rank) for name, rank in outputs.items()],
        [onnx.numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(TRAINING, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def derivatives(y: torch.Tensor, *xs: torch.Tensor, create_graph: bool = False) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(y.sum(), xs, create_graph=create_graph)


@pytest.mark.parametrize("name", CASES)
def test_a_case_of_onnx_gives_what_it_should(name: str) -> None:
    found = {key.partition("/")[2]: case for key, case in load_cases().items()}
    case = found[name]
    expanded = onnxgrad.expand(case.model)
    onnx.checker.check_model(expanded, full_check=True)
    assert {entry.domain for entry in expanded.opset_import} == {""}
    results = run(expanded, case.feeds)
    for output, expected in case.outputs.items():
        assert (results[output].dtype, results[output].shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(results[output], expected, rtol=case.rtol, atol=case.atol)


def test_every_case_of_these_operators_is_tried() -> None:
    with_training = [
        name.partition("/")[2]
        for name, case in load_cases().items()
        if any(entry.domain == TRAINING for entry in case.model.opset_import)
    ]
    assert sorted(with_training) == sorted(CASES)


@pytest.mark.parametrize("batch", [3, "batch"])
def test_gradient_with_respect_to_weights_and_an_intermediate_value(batch: int | str) -> None:
    nodes = [
        helper.make_node("MatMul", ["X", "W"], ["H"]),
        helper.make_node("Tanh", ["H"], ["A"]),
        helper.make_node("MatMul", ["A", "Z"], ["Y"]),
        gradient(["W", "Z", "X"], ["dW", "dZ"], xs=["W", "Z"], zs=["X"], y="Y"),
        gradient(["H"], ["dH"], xs=["H"], y="Y"),
    ]
    weights = {"W": draw(4, 5), "Z": draw(5, 2, seed=1)}
    model = onnxgrad.expand(
        model_of(nodes, {"X": [batch, 4]}, dict.fromkeys(["Y", "dW", "dZ", "dH"], 2), weights=weights)
    )
    feeds = {"X": draw(3, 4, seed=2)}
    x, w, z = (torch.tensor(array, requires_grad=True) for array in (feeds["X"], *weights.values()))
    h = x @ w
    y = torch.tanh(h) @ z
    results = run(model, feeds)
    for name, expected in zip(["dW", "dZ", "dH"], derivatives(y, w, z, h), strict=True):
        np.testing.assert_allclose(results[name], expected.numpy(), rtol=1e-5, atol=1e-6)


def test_gradients_of_gradients() -> None:
    nodes = [
        # The order of the file says nothing: the second derivative comes first.
        gradient(["x", "w"], ["d3x", "d3w"], xs=["x", "w"], y="d2x"),
        gradient(["x"], ["d2x"], xs=["x"], y="dx"),
        helper.make_node("Mul", ["x", "w"], ["a"]),
        helper.make_node("Sin", ["a"], ["y"]),
        gradient(["x", "w"], ["dx", ""], xs=["x", "w"], y="y"),
    ]
    # ONNX wants producers before readers; the names in attributes are no readers.
    model = onnxgrad.expand(model_of(nodes, {"x": [3], "w": [3]}, dict.fromkeys(["dx", "d2x", "d3x", "d3w"], 1)))
    feeds = {"x": draw(3), "w": draw(3, seed=1)}
    x, w = (torch.tensor(array, requires_grad=True) for array in feeds.values())
    (dx,) = derivatives(torch.sin(x * w), x, create_graph=True)
    (d2x,) = derivatives(dx, x, create_graph=True)
    d3 = derivatives(d2x, x, w)
    results = run(model, feeds)
    for name, expected in zip(["dx", "d2x", "d3x", "d3w"], (dx, d2x, *d3), strict=True):
        np.testing.assert_allclose(results[name], expected.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset_of_points", ["H_1", "swapped"])
def test_gradient_at_other_points(opset_of_points: str) -> None:
    swapped = opset_of_points == "swapped"
    given = ["Z", "H"] if swapped else ["H_1", "Z_1"]
    nodes = [
        helper.make_node("Exp", ["X"], ["H"]),
        helper.make_node("Mul", ["H", "H"], ["S"]),
        helper.make_node("Mul", ["S", "Z"], ["Y"]),
        gradient(given, ["dH", "dZ"], xs=["H", "Z"], y="Y"),
    ]
    shapes = {name: [4] for name in ("X", "Z", *([] if swapped else given))}
    feeds = {name: draw(4, seed=seed) for seed, name in enumerate(shapes)}
    values = {**feeds, "H": np.exp(feeds["X"])}
    h, z = (values[name] for name in given)
    results = run(onnxgrad.expand(model_of(nodes, shapes, dict.fromkeys(["Y", "dH", "dZ"], 1))), feeds)
    np.testing.assert_allclose(results["Y"], values["H"] ** 2 * feeds["Z"], rtol=1e-5)
    np.testing.assert_allclose(results["dH"], 2 * h * z, rtol=1e-5)
    np.testing.assert_allclose(results["dZ"], h * h, rtol=1e-5)


def test_named_values_are_independent_of_each_other() -> None:
    nodes = [
        helper.make_node("Mul", ["a", "a"], ["b"]),
        helper.make_node("Mul", ["a", "b"], ["y"]),
        gradient(["a", "b"], ["da"], xs=["a"], zs=["b"], y="y"),
        gradient(["a"], ["total"], xs=["a"], y="y"),
    ]
    feeds = {"a": np.array([3.0, -2.0], np.float32)}
    results = run(onnxgrad.expand(model_of(nodes, {"a": [2]}, {"da": 1, "total": 1})), feeds)
    np.testing.assert_allclose(results["da"], [9.0, 4.0])
    np.testing.assert_allclose(results["total"], [27.0, 12.0])


def test_what_y_does_not_depend_on_has_a_gradient_of_zeros() -> None:
    nodes = [
        helper.make_node("Mul", ["a", "a"], ["y"]),
        gradient(["a", "b"], ["da", "db"], xs=["a", "b"], y="y"),
        gradient(["a"], ["dy"], xs=["a"], y="a"),
    ]
    feeds = {"a": draw(2), "b": draw(3, 2)}
    results = run(onnxgrad.expand(model_of(nodes, {"a": [2], "b": ["n", 2]}, {"da": 1, "db": 2, "dy": 1})), feeds)
    np.testing.assert_array_equal(results["db"], np.zeros((3, 2), np.float32))
    np.testing.assert_array_equal(results["dy"], np.ones(2, np.float32))


def optimizer_model(op_type: str, states: Sequence[str], dtype: int, **attributes: object) -> onnx.ModelProto:
    groups = [[f"{kind}{index}" for index in (1, 2)] for kind in ("X", "G", *states)]
    names = [name for group in groups for name in group]
    outputs = {f"{name}_new": 1 if name.endswith("1") else 2 for group in (groups[0], *groups[2:]) for name in group}
    node = helper.make_node(op_type, ["R", "T", *names], list(outputs), domain=TRAINING, **attributes)
    shapes: dict[str, Sequence[int | str]] = {"R": [], "T": []}
    shapes |= {name: ["n"] if name.endswith("1") else [2, 3] for name in names}
    return model_of([node], shapes, outputs, dtype=dtype, integers=["T"])


OPTIMIZERS = {
    "Adam": (
        ("V", "H"),
        {"alpha": 0.875, "beta": 0.96875, "epsilon": 0.0, "norm_coefficient": 0.25},
        1,
        lambda ps: torch.optim.Adam(ps, lr=0.1, betas=(0.875, 0.96875), eps=0.0, weight_decay=0.25),
    ),
    "Adagrad": (
        ("H",),
        {"decay_factor": 0.5, "epsilon": 0.0, "norm_coefficient": 0.25},
        0,
        lambda ps: torch.optim.Adagrad(ps, lr=0.1, lr_decay=0.5, eps=0.0, weight_decay=0.25),
    ),
    "Momentum": (
        ("V",),
        {"alpha": 0.75, "beta": 0.5, "mode": "standard", "norm_coefficient": 0.25},
        0,
        lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.75, dampening=0.5, weight_decay=0.25),
    ),
    "nesterov": (
        ("V",),
        {"alpha": 0.75, "beta": 1.0, "mode": "nesterov", "norm_coefficient": 0.0},
        0,
        lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.75, nesterov=True),
    ),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_of_an_optimizer_are_those_of_pytorch(name: str, dtype: type) -> None:
    states, attributes, first, make = OPTIMIZERS[name]
    op_type = "Momentum" if name == "nesterov" else name
    element = TensorProto.FLOAT if dtype == np.float32 else TensorProto.DOUBLE
    model = onnxgrad.expand(optimizer_model(op_type, states, element, **attributes))
    values = {"X1": draw(4).astype(dtype), "X2": draw(2, 3, seed=1).astype(dtype)}
    values |= {f"{state}{k}": np.zeros_like(values[f"X{k}"]) for state in states for k in (1, 2)}
    tensors = [torch.tensor(values[x], requires_grad=True) for x in ("X1", "X2")]
    torch_optimizer = make(tensors)
    for step in range(4):
        gradients = {f"G{k}": draw(*values[f"X{k}"].shape, seed=9 + 2 * step + k).astype(dtype) for k in (1, 2)}
        counted = np.array(step + first, np.int64)
        results = run(model, {"R": np.array(0.1, dtype), "T": counted, **values, **gradients})
        values = {key.removesuffix("_new"): value for key, value in results.items()}
        for tensor, g in zip(tensors, gradients.values(), strict=True):
            tensor.grad = torch.tensor(g)
        torch_optimizer.step()
        for key, tensor in zip(("X1", "X2"), tensors, strict=True):
            tolerance = 2e-5 if dtype == np.float32 else 1e-7  # of the learning rate, which the attributes do not hold
            np.testing.assert_allclose(values[key], tensor.detach().numpy(), rtol=tolerance, atol=tolerance)


def test_a_whole_step_in_one_model() -> None:
    nodes = [
        helper.make_node("MatMul", ["X", "W"], ["P"]),
        helper.make_node("Sub", ["P", "L"], ["E"]),
        helper.make_node("ReduceSumSquare", ["E"], ["loss"], keepdims=0),
        gradient(["W", "X", "L"], ["dW"], xs=["W"], zs=["X", "L"], y="loss"),
        helper.make_node(
            *("Momentum", ["R", "T", "W", "dW", "V"], ["W_new", "V_new"]),
            domain=TRAINING, alpha=0.5, beta=1.0, mode="standard", norm_coefficient=0.0,
        ),
    ]  # fmt: skip
    shapes = {"X": ["batch", 3], "L": ["batch", 2], "W": [3, 2], "V": [3, 2], "R": [1], "T": [1]}
    model = onnxgrad.expand(model_of(nodes, shapes, {"loss": 0, "W_new": 2, "V_new": 2}, integers=["T"]))
    feeds = {name: draw(*(5 if n == "batch" else n for n in shape), seed=3) for name, shape in shapes.items()}
    feeds |= {"R": np.array([0.1], np.float32), "T": np.array([0])}
    results = run(model, feeds)
    g = 2 * feeds["X"].T @ (feeds["X"] @ feeds["W"] - feeds["L"])
    np.testing.assert_allclose(results["V_new"], 0.5 * feeds["V"] + g, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(results["W_new"], feeds["W"] - 0.1 * results["V_new"], rtol=1e-4, atol=1e-5)


def test_compiling_and_transforming_meet_these_operators() -> None:
    nodes = [
        helper.make_node("Mul", ["w", "x"], ["a"]),
        helper.make_node("Sin", ["a"], ["y"]),
        gradient(["x"], ["force"], xs=["x"], y="y"),
    ]
    weights = {"w": draw(3)}
    model = model_of(nodes, {"x": [3]}, {"force": 1}, weights=weights)
    program = onnxgrad.compile(model, loss="mse")
    feeds = {"x": draw(3, seed=1), "labels": draw(3, seed=2)}
    w, x, target = (torch.tensor(array, requires_grad=True) for array in (weights["w"], *feeds.values()))
    (force,) = derivatives(torch.sin(w * x), x, create_graph=True)
    (expected,) = derivatives(torch.nn.functional.mse_loss(force, target), w, create_graph=True)
    label = next(port.name for port in program.signature.inputs_of("label"))
    grads = program.session().grad({"x": feeds["x"], label: feeds["labels"]})
    np.testing.assert_allclose(grads["w"], expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    pushed = run(onnxgrad.jvp(model), {"x": feeds["x"], "x.tangent": np.ones(3, np.float32)})
    (slope,) = derivatives(force, x)
    np.testing.assert_allclose(pushed["force.tangent"], slope.numpy(), rtol=1e-5, atol=1e-6)


def test_the_model_stays_of_its_kind_and_keeps_its_interface(tmp_path: object) -> None:
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"]), gradient(["x", "w"], ["dx"], xs=["x"], zs=["w"], y="y")]
    model = model_of(nodes, {"x": ["n"], "w": [1]}, {"y": 1, "dx": 1}, weights={"w": draw(1)})
    before = model.SerializeToString()
    expanded = onnxgrad.expand(model)
    assert model.SerializeToString() == before
    session = ort.InferenceSession(expanded.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["x"]
    assert [value.name for value in session.get_overridable_initializers()] == ["w"]
    results = run(expanded, {"x": draw(4), "w": np.array([2.0], np.float32)})
    np.testing.assert_array_equal(results["dx"], np.full(4, 2.0, np.float32))


def of_two(**attributes: object) -> onnx.ModelProto:
    nodes = [helper.make_node("Mul", ["a", "b"], ["y"]), gradient(["a", "b"], ["da"], **attributes)]
    return model_of(nodes, {"a": [2], "b": [2]}, {"da": 1})


def circle() -> onnx.ModelProto:
    nodes = [gradient(["a"], ["p"], xs=["a"], y="q"), gradient(["a"], ["q"], xs=["a"], y="p")]
    return model_of(nodes, {"a": [2]}, {"p": 1})


def in_a_branch() -> onnx.ModelProto:
    info = helper.make_tensor_value_info("da", TensorProto.FLOAT, [2])
    nodes = [gradient(["a"], ["da"], xs=["a"], y="y")]
    other = [helper.make_node("Identity", ["a"], ["da"])]
    branches = {
        "then_branch": helper.make_graph(nodes, "then", [], [info]),
        "else_branch": helper.make_graph(other, "else", [], [info]),
    }
    nodes = [
        helper.make_node("Mul", ["a", "a"], ["y"]),
        helper.make_node("ReduceSum", ["a"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["out"], **branches),
    ]
    return model_of(nodes, {"a": [2]}, {"out": 1})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: of_two(xs=["a"], zs=["c"], y="y"), "names 'c', but the graph has no such value"),
        (lambda: of_two(xs=["a"], zs=["b"], y="z"), "names 'z', but the graph has no such value"),
        (
            lambda: of_two(xs=["a"], y="y"),
            "has 2 inputs and 1 outputs; it needs an input for each of its xs",
        ),
        (lambda: of_two(xs=["a", "a"], y="y"), "each of which is named once"),
        (circle, "The Gradients of 'q', 'p' are defined by each other in a circle"),
        (in_a_branch, "is in a subgraph or a function"),
        (
            lambda: optimizer_model("Adam", ("V",), TensorProto.FLOAT),
            "has 6 inputs behind R and T; it takes 4",
        ),
    ],
)
def test_a_mistake_is_one_clear_error(make: Callable[[], onnx.ModelProto], message: str) -> None:
    with pytest.raises(onnxgrad.Error) as raised:
        onnxgrad.expand(make())
    assert message in str(raised.value)
