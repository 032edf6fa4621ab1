"""Rules of the normalizations and Dropout."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from onnxgrad.passes.rules import BUILTIN_RULES

from .checking import check_edge_values, check_rule, joint_graph, run_reference, run_runtime

random = np.random.default_rng(5)


def sample(*shape: int) -> np.ndarray:
    return random.uniform(-2, 2, shape)


def positive(*shape: int) -> np.ndarray:
    return random.uniform(0.5, 2, shape)


def model(
    op_type: str,
    shapes: dict[str, tuple[int, ...]],
    types: tuple[int, ...] | None = None,
    outputs: int = 1,
    **attributes: float,
) -> onnx.ModelProto:
    """One operator on inputs of *shapes*, by name; of float32 unless *types* says otherwise."""
    types = types or (onnx.TensorProto.FLOAT,) * len(shapes)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op_type, list(shapes), [f"y{index}" for index in range(outputs)], **attributes)],
        op_type,
        [
            onnx.helper.make_tensor_value_info(name, kind, shape)
            for (name, shape), kind in zip(shapes.items(), types, strict=True)
        ],
        [onnx.helper.make_tensor_value_info("y0", types[0], shapes["x"])],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 26)], ir_version=13)


@pytest.mark.parametrize(("shape", "axis"), [((3, 5), -1), ((2, 3, 4), -1), ((2, 3, 4), 1), ((4,), 0)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("epsilon", [2**-17, 2**-7])
def test_layer_normalization(shape: tuple[int, ...], axis: int, bias: bool, epsilon: float) -> None:
    normalized = shape[axis % len(shape) :]
    inputs = [sample(*shape), positive(*normalized)] + ([sample(*normalized)] if bias else [])
    check_rule(
        "LayerNormalization",
        inputs,
        attributes={"axis": axis, "epsilon": epsilon},
        torch_function=lambda x, scale, bias=None: F.layer_norm(x, normalized, scale, bias, epsilon),
    )


def test_layer_normalization_with_its_statistics() -> None:
    def expected(x: torch.Tensor, scale: torch.Tensor) -> list[torch.Tensor]:
        mean = x.mean(-1, keepdim=True)
        inv_std = torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + 2**-17)
        return [F.layer_norm(x, x.shape[-1:], scale, eps=2**-17), mean, inv_std]

    check_rule(
        "LayerNormalization",
        [sample(3, 6), positive(6)],
        attributes={"epsilon": 2**-17},
        outputs=3,
        torch_function=expected,
        runtime_dtypes=(np.float32,),
    )


def test_layer_normalization_keeps_its_statistics() -> None:
    """The two means of the formula are computed, those of the input are not computed again."""
    graph = joint_graph(model("LayerNormalization", {"x": (3, 6), "scale": (6,)}), ["x"], BUILTIN_RULES).graph
    operators = [node.op_type for node in graph.node]
    assert len(graph.node[operators.index("LayerNormalization")].output) == 3
    assert operators.count("ReduceMean") == 0
    assert operators.count("Gemm") == 2
    assert not {"Sqrt", "Reciprocal", "Pow"} & set(operators)


def test_layer_normalization_broadcasts_its_scale() -> None:
    check_rule(
        "LayerNormalization",
        [sample(2, 3, 4), positive(4)],
        attributes={"axis": 1, "epsilon": 2**-17},
        torch_function=lambda x, scale: F.layer_norm(x, (3, 4), eps=2**-17) * scale,
    )


@pytest.mark.parametrize(("shape", "axis"), [((3, 5), -1), ((2, 3, 4), 1)])
def test_rms_normalization(shape: tuple[int, ...], axis: int) -> None:
    normalized = shape[axis % len(shape) :]
    check_rule(
        "RMSNormalization",
        [sample(*shape), positive(*normalized)],
        attributes={"axis": axis, "epsilon": 2**-10},
        torch_function=lambda x, scale: F.rms_norm(x, normalized, scale, 2**-10),
    )


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (2, 3, 2, 2), (1, 2, 2, 1, 2)])
def test_batch_normalization_at_inference(shape: tuple[int, ...]) -> None:
    channels = shape[1]
    check_rule(
        "BatchNormalization",
        [sample(*shape), positive(channels), sample(channels), sample(channels), positive(channels)],
        attributes={"epsilon": 2**-10},
        torch_function=lambda x, scale, bias, mean, var: (
            (x.movedim(1, -1) - mean) / torch.sqrt(var + 2**-10) * scale + bias
        ).movedim(-1, 1),
    )


@pytest.mark.parametrize("training_mode", [0, 1])
def test_batch_normalization_of_half_floats_with_float_statistics(training_mode: int) -> None:
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    shapes = {"x": (4, 3, 2), "scale": (3,), "bias": (3,), "mean": (3,), "var": (3,)}
    names = list(shapes)[: 3 if training_mode else 5]

    def gradients(types: tuple[int, ...]) -> list[np.ndarray]:
        forward = model("BatchNormalization", shapes, types, 1 + 2 * training_mode, training_mode=training_mode)
        feeds = {name: array.astype(dtype) for (name, array), dtype in zip(arrays.items(), numpy(types), strict=True)}
        seed = {"y0.grad_output": dy.astype(numpy(types)[0])}
        return run_reference(joint_graph(forward, names, BUILTIN_RULES), {**feeds, **seed})

    def numpy(types: tuple[int, ...]) -> list[np.dtype]:
        return [onnx.helper.tensor_dtype_to_np_dtype(kind) for kind in types]

    arrays = {name: positive(*shape).astype(np.float16) for name, shape in shapes.items()}
    dy = sample(4, 3, 2).astype(np.float16)
    types = (half, half, half, single, single)
    exact = gradients((onnx.TensorProto.DOUBLE,) * 5)
    for gradient, expected, dtype in zip(gradients(types), exact, numpy(types), strict=False):
        assert gradient.dtype == dtype
        np.testing.assert_allclose(gradient, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 2, 2)])
def test_batch_normalization_in_training(shape: tuple[int, ...]) -> None:
    channels, axes = shape[1], [axis for axis in range(len(shape)) if axis != 1]

    def expected(x, scale, bias, mean, var):
        new_mean, new_var = x.mean(axes), x.var(axes, unbiased=False)
        y = ((x.movedim(1, -1) - new_mean) / torch.sqrt(new_var + 2**-17) * scale + bias).movedim(-1, 1)
        return [y, mean * 0.75 + new_mean * 0.25, var * 0.75 + new_var * 0.25]

    check_rule(
        "BatchNormalization",
        [sample(*shape), positive(channels), sample(channels), sample(channels), positive(channels)],
        attributes={"training_mode": 1, "momentum": 0.75, "epsilon": 2**-17},
        outputs=3,
        torch_function=expected,
    )


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 2, 3)])
def test_instance_normalization(shape: tuple[int, ...]) -> None:
    check_rule(
        "InstanceNormalization",
        [sample(*shape), positive(3), sample(3)],
        attributes={"epsilon": 2**-7},
        torch_function=lambda x, scale, bias: F.instance_norm(x, weight=scale, bias=bias, eps=2**-7),
    )


@pytest.mark.parametrize(("shape", "groups"), [((2, 6, 3), 3), ((2, 4, 2, 2), 2), ((3, 4), 1)])
def test_group_normalization(shape: tuple[int, ...], groups: int) -> None:
    check_rule(
        "GroupNormalization",
        [sample(*shape), positive(shape[1]), sample(shape[1])],
        attributes={"num_groups": groups, "epsilon": 2**-7},
        torch_function=lambda x, scale, bias: F.group_norm(x, groups, scale, bias, 2**-7),
    )


@pytest.mark.parametrize(("shape", "axes"), [((2, 3, 2, 2), None), ((3, 4), [1]), ((2, 3, 4), [0, -1])])
def test_mean_variance_normalization(shape: tuple[int, ...], axes: list[int] | None) -> None:
    over = axes or [0, 2, 3]
    check_rule(
        "MeanVarianceNormalization",
        [sample(*shape)],
        attributes={} if axes is None else {"axes": axes},
        torch_function=lambda x: (x - x.mean(over, keepdim=True)) / (x.std(over, unbiased=False, keepdim=True) + 1e-9),
        # The runtime expands the operator, whose body has float32 constants.
        runtime_dtypes=(np.float32,),
    )


def test_mean_variance_normalization_of_equal_elements() -> None:
    check_edge_values(
        "MeanVarianceNormalization",
        [np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]])],
        lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, unbiased=False, keepdim=True) + 1e-9),
        attributes={"axes": [1]},
        runtime_dtypes=(),
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(2, 6, 3), (1, 4, 2, 2)])
def test_lrn(size: int, shape: tuple[int, ...]) -> None:
    def expected(x: torch.Tensor) -> torch.Tensor:
        padded = F.pad(x.square().movedim(1, -1), ((size - 1) // 2, size // 2))
        windows = padded.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
        return x / (1.5 + 0.25 / size * windows) ** 0.625

    check_rule(
        "LRN",
        [sample(*shape)],
        attributes={"size": size, "alpha": 0.25, "beta": 0.625, "bias": 1.5},
        torch_function=expected,
        # The runtime has a kernel for images and odd sizes only.
        runtime_dtypes=(np.float32, np.float16) if len(shape) == 4 and size % 2 else (),
    )


def test_lrn_is_that_of_pytorch() -> None:
    check_rule(
        "LRN",
        [sample(2, 6, 3, 3)],
        attributes={"size": 5, "alpha": 0.125},
        torch_function=lambda x: F.local_response_norm(x, 5, alpha=0.125),
    )


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_lp_normalization(p: int, axis: int) -> None:
    x = positive(3, 4) * np.sign(sample(3, 4))
    check_rule(
        "LpNormalization",
        [x],
        attributes={"p": p, "axis": axis},
        torch_function=lambda x: x / torch.linalg.vector_norm(x, p, dim=axis, keepdim=True),
        runtime_dtypes=(np.float32,),
    )


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization_of_zeros_has_no_gradient(p: int) -> None:
    joint = joint_graph(model("LpNormalization", {"x": (2, 3)}, p=p), ["x"], BUILTIN_RULES)
    x = np.array([[0, 0, 0], [1, 0, -2]], np.float32)
    dy = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    row = torch.tensor(x[1], requires_grad=True)
    expected = torch.autograd.grad(row / torch.linalg.vector_norm(row, p), row, torch.tensor(dy[1]))[0]
    for run in run_reference, run_runtime:
        (dx,) = run(joint, {"x": x, "y0.grad_output": dy})
        np.testing.assert_array_equal(dx[0], 0)
        np.testing.assert_allclose(dx[1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("inputs", [[], [np.array(0.3)], [np.array(0.3), np.array(False)], [None, np.array(False)]])
def test_dropout_at_inference(inputs: list[np.ndarray | None]) -> None:
    constants = [1 + index for index, value in enumerate(inputs) if value is not None]
    check_rule("Dropout", [sample(3, 4), *inputs], constants=constants, wrt=[0], torch_function=lambda x, *_: x * 1)


@pytest.mark.parametrize("ratio", [0.0, 0.3])
@pytest.mark.parametrize("constants", [[], [1, 2]])
@pytest.mark.parametrize("outputs", [1, 2])
def test_dropout_in_training(ratio: float, constants: list[int], outputs: int) -> None:
    """The seed makes the evaluator drop the same elements each time."""
    check_rule(
        "Dropout",
        [sample(3, 4), np.array(ratio), np.array(True)],
        attributes={"seed": 3},
        constants=constants,
        wrt=[0],
        outputs=outputs,
        runtime_dtypes=(),
    )


def test_dropout_of_everything_has_no_gradient() -> None:
    check_edge_values(
        "Dropout",
        [sample(3, 4), np.array(1.0), np.array(True)],
        lambda x, *_: F.dropout(x, 1.0),
        constants=[1, 2],
        runtime_dtypes=(),  # the runtime refuses a ratio of 1
    )


@pytest.mark.parametrize("training", [True, False])
def test_dropout_drops_the_cotangents_of_what_it_dropped(training: bool) -> None:
    shapes = {"x": (20, 30), "ratio": (), "training": ()}
    types = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL)
    joint = joint_graph(model("Dropout", shapes, types), ["x"], BUILTIN_RULES)
    joint.graph.output.append(onnx.helper.make_tensor_value_info("y0", onnx.TensorProto.FLOAT, shapes["x"]))
    x, dy = positive(20, 30).astype(np.float32), sample(20, 30).astype(np.float32)
    feeds = {"x": x, "ratio": np.array(0.25, np.float32), "training": np.array(training), "y0.grad_output": dy}
    dx, y = run_runtime(joint, feeds)
    assert training == bool((y == 0).any())
    np.testing.assert_allclose(dx, dy * y / x, rtol=1e-5)
