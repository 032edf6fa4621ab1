"""Rules of the pooling operators. Samples are far apart, so that no finite difference changes a maximum.

The oracle is PyTorch where it has the form, and finite differences of the operator always.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F

from onnxgrad.passes.forms import Alternatives
from onnxgrad.passes.infer_shapes import InferShapes
from onnxgrad.passes.registry import Registry
from onnxgrad.passes.rules import BUILTIN_RULES

from .checking import check_edge_values, check_rule, joint_graph, run_runtime

POOLS = {1: (F.max_pool1d, F.avg_pool1d), 2: (F.max_pool2d, F.avg_pool2d), 3: (F.max_pool3d, F.avg_pool3d)}


def sample(*shape: int) -> np.ndarray:
    """Distinct values, shuffled."""
    count = int(np.prod(shape))
    return (np.random.default_rng(count).permutation(count) / count * 4 - 2 + 0.01).reshape(shape)


WINDOWS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 2, 6), {"kernel_shape": [2], "strides": [2]}),
    ((1, 2, 7), {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}),
    ((2, 2, 4, 6), {"kernel_shape": [2, 3], "strides": [2, 3]}),
    ((1, 2, 5, 5), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((1, 2, 5, 4), {"kernel_shape": [2, 2]}),
    ((1, 1, 5, 6), {"kernel_shape": [2, 2], "strides": [3, 3]}),
    ((1, 2, 6, 5), {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 1, 1, 1]}),
    ((1, 1, 4, 4, 4), {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}),
    ((1, 1, 3, 4, 5), {"kernel_shape": [2, 3, 2], "strides": [1, 2, 2], "pads": [0, 1, 1, 0, 1, 1]}),
]

OTHER_FORMS: list[dict[str, Any]] = [
    {"dilations": [2, 1]},
    {"dilations": [1, 2], "pads": [1, 2, 1, 2]},
    {"strides": [1, 1], "auto_pad": "SAME_LOWER"},
    {"strides": [1, 1], "dilations": [2, 2], "pads": [1, 0, 0, 1]},
    {"auto_pad": "SAME_UPPER"},
    {"auto_pad": "SAME_LOWER"},
    {"auto_pad": "VALID"},
]
"""Forms that PyTorch lacks, where the one oracle is finite differences."""


def torch_options(attributes: dict[str, Any]) -> dict[str, Any]:
    rank = len(attributes["kernel_shape"])
    return {
        "kernel_size": attributes["kernel_shape"],
        "stride": attributes.get("strides", [1] * rank),
        "padding": attributes.get("pads", [0] * rank)[:rank],
        "ceil_mode": bool(attributes.get("ceil_mode", 0)),
    }


@pytest.mark.parametrize(("shape", "attributes"), WINDOWS)
@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_max_pool(shape: tuple[int, ...], attributes: dict[str, Any], ceil_mode: int) -> None:
    attributes = {**attributes, "ceil_mode": ceil_mode}
    pool = POOLS[len(shape) - 2][0]
    check_rule(
        "MaxPool",
        [sample(*shape)],
        attributes=attributes,
        torch_function=lambda x: pool(x, **torch_options(attributes)),
        step=1e-6,
    )


@pytest.mark.parametrize("attributes", OTHER_FORMS)
def test_max_pool_in_other_forms(attributes: dict[str, Any]) -> None:
    attributes = {"kernel_shape": [2, 3], "strides": [1, 2], **attributes}
    check_rule("MaxPool", [sample(1, 2, 5, 7)], attributes=attributes, step=1e-6)


def test_max_pool_dilated_is_that_of_pytorch() -> None:
    attributes = {"kernel_shape": [2, 2], "strides": [1, 2], "dilations": [2, 3]}
    check_rule(
        "MaxPool",
        [sample(2, 1, 5, 6)],
        attributes=attributes,
        torch_function=lambda x: F.max_pool2d(x, [2, 2], [1, 2], dilation=[2, 3]),
        step=1e-6,
    )


def test_max_pool_with_indices_in_column_major_order() -> None:
    check_rule(
        "MaxPool",
        [sample(1, 2, 4, 5)],
        attributes={"kernel_shape": [2, 2], "storage_order": 1},
        torch_function=lambda x: F.max_pool2d(x, 2, 1),
        step=1e-6,
        second_order=False,
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_ties_go_to_the_index_that_max_pool_returned(stride: int) -> None:
    x = np.array([[[[1.0, 1.0, 0.0, 2.0], [1.0, 1.0, 2.0, 2.0]]]])
    check_rule(
        "MaxPool",
        [x],
        attributes={"kernel_shape": [2, 2], "strides": [stride, stride]},
        torch_function=lambda x: F.max_pool2d(x, 2, stride),
        finite_differences=False,
    )


SIDE_BY_SIDE: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 4, 6), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ((1, 2, 7, 5), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ((2, 2, 10, 6), {"kernel_shape": [2, 1], "strides": [3, 2]}),
    ((1, 2, 4, 8), {"kernel_shape": [1, 3], "strides": [1, 4]}),
    ((1, 2, 4, 5), {"kernel_shape": [1, 1], "strides": [1, 1]}),
    ((2, 3, 9), {"kernel_shape": [4], "strides": [4]}),
    ((1, 2, 4, 2, 6), {"kernel_shape": [2, 2, 3], "strides": [2, 2, 3]}),
]


def by_winners(alternatives: Alternatives) -> str:
    """The form that compares the elements of a window with its maximum, where there is one."""
    return "winners" if "winners" in alternatives.forms else alternatives.expected


@pytest.mark.parametrize(("shape", "attributes"), [*SIDE_BY_SIDE, *WINDOWS])
def test_max_pool_by_winners(shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    check_rule(
        "MaxPool",
        [sample(*shape)],
        attributes=attributes,
        torch_function=lambda x: POOLS[len(shape) - 2][0](x, **torch_options(attributes)),
        step=1e-6,
        rules=Registry(BUILTIN_RULES, choose=by_winners),
    )


def pool_model(
    shape: Sequence[int | str],
    attributes: dict[str, Any],
    dtype: str = "float",
    outputs: int = 1,
    pool: str = "MaxPool",
) -> Any:
    options = ", ".join(f"{name} = {value}" for name, value in attributes.items())
    results = ", ".join(["y", "i"][:outputs])
    model = onnx.parser.parse_model(
        '<ir_version: 13, opset_import: ["": 26]>'
        f"pool ({dtype}[{', '.join(map(str, shape))}] x) => ({results}) {{ {results} = {pool} <{options}> (x) }}"
    )
    return ir.to_proto(InferShapes()(ir.from_proto(model)).model)


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize(("shape", "attributes"), SIDE_BY_SIDE)
def test_the_winner_of_ties_is_the_first(batch: int | str, shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    joint = joint_graph(pool_model((batch, *shape[1:]), attributes), ["x"], Registry(BUILTIN_RULES, choose=by_winners))
    assert "ScatterElements" not in {node.op_type for node in joint.graph.node}
    x = np.random.default_rng(0).integers(0, 3, (2, *shape[1:])).astype(np.float32)
    tensor = torch.tensor(x, requires_grad=True)
    y = POOLS[len(shape) - 2][0](tensor, **torch_options(attributes))
    dy = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
    (dx,) = run_runtime(joint, {"x": x, "y.grad_output": dy.numpy()})
    np.testing.assert_array_equal(dx, torch.autograd.grad(y, tensor, dy)[0])


@pytest.mark.parametrize(
    ("shape", "dtype", "outputs", "form"),
    [
        ((4, 8, 32, 32), "float", 1, "winners"),
        (("batch", 8, 32, 32), "float16", 1, "winners"),
        ((4, 8, 32, "width"), "float", 1, "indices"),
        ((4, 8, 32, 32), "double", 1, "indices"),
        ((4, 8, 32, 32), "float", 2, "indices"),
        ((1, 8, 8, 8), "float", 1, "indices"),
    ],
)
def test_which_form_is_expected(shape: tuple[int | str, ...], dtype: str, outputs: int, form: str) -> None:
    """Winners where elements are many and the indices are not there in any case."""
    model = pool_model(shape, SIDE_BY_SIDE[0][1], dtype, outputs)
    operators = {node.op_type for node in joint_graph(model, ["x"], BUILTIN_RULES).graph.node}
    assert ("ScatterElements" in operators) == (form == "indices")
    assert ("Where" in operators) == (form == "winners")


def test_max_pool_that_gives_its_indices_out() -> None:
    check_rule(
        "MaxPool",
        [sample(1, 2, 4, 5)],
        attributes={"kernel_shape": [2, 3]},
        outputs=2,
        torch_function=lambda x: F.max_pool2d(x, [2, 3], 1),
        step=1e-6,
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_infinities_are_elements_like_others(stride: int) -> None:
    x = np.full((1, 2, 8), -np.inf)
    x[0, 1, 3:] = [1.0, np.inf, 2.0, np.inf, np.inf]
    check_edge_values(
        "MaxPool",
        [x],
        lambda x: F.max_pool1d(x, 2, stride),
        attributes={"kernel_shape": [2], "strides": [stride]},
    )


@pytest.mark.parametrize(("shape", "attributes"), WINDOWS)
@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("count_include_pad", [0, 1])
def test_average_pool(
    shape: tuple[int, ...], attributes: dict[str, Any], ceil_mode: int, count_include_pad: int
) -> None:
    attributes = {**attributes, "ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    pool = POOLS[len(shape) - 2][1]
    check_rule(
        "AveragePool",
        [sample(*shape)],
        attributes=attributes,
        torch_function=lambda x: pool(x, count_include_pad=bool(count_include_pad), **torch_options(attributes)),
    )


ALONE: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 2, 5, 4), {"kernel_shape": [9, 7], "strides": [9, 7], "ceil_mode": 1}),
    ((2, 1, 4, 4), {"kernel_shape": [4, 4], "strides": [1, 1]}),
    ((1, 2, 5, 6), {"kernel_shape": [4, 2], "strides": [4, 2]}),
    ((1, 2, 5, 4), {"kernel_shape": [4, 2], "strides": [5, 1], "pads": [1, 1, 0, 1]}),
    ((1, 2, 6), {"kernel_shape": [8], "strides": [3], "pads": [2, 2], "ceil_mode": 1}),
]
"""Windows of which there is one along some axis, and what they reach beyond the input."""


@pytest.mark.parametrize(("shape", "attributes"), [*WINDOWS, *SIDE_BY_SIDE, *ALONE])
@pytest.mark.parametrize("form", ["averaged", "transposed"])
def test_average_pool_in_each_form(shape: tuple[int, ...], attributes: dict[str, Any], form: str) -> None:
    """The other forms than the one that is expected to be the fastest, if there are any."""

    def choose(alternatives: Alternatives) -> str:
        return form if form in alternatives.forms else alternatives.expected

    paddings = attributes.get("pads", [])
    symmetric = paddings[: len(paddings) // 2] == paddings[len(paddings) // 2 :]
    pool, options = POOLS[len(shape) - 2][1], torch_options(attributes)
    check_rule(
        "AveragePool",
        [sample(*shape)],
        attributes=attributes,
        torch_function=(lambda x: pool(x, count_include_pad=False, **options)) if symmetric else None,
        rules=Registry(BUILTIN_RULES, choose=choose),
    )


@pytest.mark.parametrize(
    ("shape", "dtype", "kernel", "operator"),
    [
        (("n", 3, 8, 6), "float", (2, 3), "Resize"),
        (("n", 3, "height", "width"), "float16", (2, 3), "Resize"),
        (("n", 3, "height", "width"), "double", (2, 3), "ConvTranspose"),
        (("n", 3, 8, 6), "double", (2, 3), "ConvTranspose"),
        (("n", 3, 5, 5), "float", (6, 6), "Expand"),
        (("n", 3, 5, 5), "double", (6, 6), "Expand"),
    ],
)
def test_windows_that_share_no_elements_are_not_added_up(
    shape: tuple[int | str, ...], dtype: str, kernel: tuple[int, int], operator: str
) -> None:
    attributes = {"kernel_shape": list(kernel), "strides": list(kernel), "ceil_mode": int(kernel == (6, 6))}
    operators = {
        node.op_type
        for node in joint_graph(
            pool_model(shape, attributes, dtype, pool="AveragePool"), ["x"], BUILTIN_RULES
        ).graph.node
    }
    assert {"ConvTranspose", "Expand", "Resize"} & operators == {operator}


@pytest.mark.parametrize("attributes", OTHER_FORMS)
@pytest.mark.parametrize("count_include_pad", [0, 1])
def test_average_pool_in_other_forms(attributes: dict[str, Any], count_include_pad: int) -> None:
    attributes = {"kernel_shape": [2, 3], "strides": [1, 2], "count_include_pad": count_include_pad, **attributes}
    check_rule("AveragePool", [sample(1, 2, 5, 7)], attributes=attributes)


@pytest.mark.parametrize("stride", [1, 2])
def test_average_pool_of_a_long_signal(stride: int) -> None:
    """A million samples: memory is linear in their number."""
    shape = [1, 1, 2**20]
    node = onnx.helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3], strides=[stride], pads=[1, 1])
    signal = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    pooled = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 1, 2**20 // stride])
    graph = onnx.helper.make_graph([node], "pool", [signal], [pooled])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 26)], ir_version=13)
    x = torch.ones(shape, requires_grad=True)
    y = F.avg_pool1d(x, 3, stride, 1, count_include_pad=False)
    dy = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
    feeds = {"x": x.detach().numpy(), "y.grad_output": dy.numpy()}
    (dx,) = run_runtime(joint_graph(model, ["x"], BUILTIN_RULES), feeds)
    np.testing.assert_allclose(dx, torch.autograd.grad(y, x, dy)[0], atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 2, 3, 3), (1, 2, 2, 3, 2)])
def test_global_pools(shape: tuple[int, ...]) -> None:
    spatial = list(range(2, len(shape)))
    check_rule("GlobalAveragePool", [sample(*shape)], torch_function=lambda x: x.mean(spatial, keepdim=True))
    check_rule("GlobalMaxPool", [sample(*shape)], torch_function=lambda x: x.amax(spatial, keepdim=True), step=1e-6)


def test_ties_of_the_global_maximum_go_to_the_first() -> None:
    x = np.array([[[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]])
    check_rule(
        "GlobalMaxPool",
        [x],
        torch_function=lambda x: F.adaptive_max_pool1d(x, 1),
        finite_differences=False,
    )


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 2, 3, 3)])
def test_global_lp_pool(p: int, shape: tuple[int, ...]) -> None:
    spatial = list(range(2, len(shape)))
    check_rule(
        "GlobalLpPool",
        [sample(*shape)],
        attributes={"p": p},
        torch_function=lambda x: torch.linalg.vector_norm(x, p, dim=spatial, keepdim=True),
    )


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize(("shape", "attributes"), WINDOWS[:5])
@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_lp_pool(p: int, shape: tuple[int, ...], attributes: dict[str, Any], ceil_mode: int) -> None:
    attributes = {**attributes, "ceil_mode": ceil_mode}
    rank = len(shape) - 2

    def expected(x: torch.Tensor) -> torch.Tensor:
        # The sum of a window is its average over all of the kernel, which only avg_pool2d and avg_pool3d can take.
        powers = (x.abs() ** p).reshape(*x.shape[:2], *[1] * (2 - rank), *x.shape[2:])
        options = torch_options(attributes)
        for name, filler in ("kernel_size", 1), ("stride", 1), ("padding", 0):
            options[name] = [filler] * (2 - rank) + options[name]
        sums = F.avg_pool2d(powers, **options, divisor_override=1)
        return sums.reshape(*x.shape[:2], *sums.shape[4 - rank :]) ** (1 / p)

    check_rule("LpPool", [sample(*shape)], attributes={**attributes, "p": p}, torch_function=expected)


@pytest.mark.parametrize("attributes", OTHER_FORMS)
def test_lp_pool_in_other_forms(attributes: dict[str, Any]) -> None:
    attributes = {"kernel_shape": [2, 3], "strides": [1, 2], **attributes}
    check_rule("LpPool", [sample(1, 2, 5, 7)], attributes=attributes)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pools_of_zeros(p: int) -> None:
    x = np.array([[[0.0, 0.0, 3.0, 0.0, -2.0, 1.0]]])
    check_edge_values(
        "LpPool",
        [x],
        lambda x: torch.linalg.vector_norm(x.unfold(2, 2, 2), p, dim=-1),
        attributes={"kernel_shape": [2], "strides": [2], "p": p},
    )
    check_edge_values(
        "GlobalLpPool",
        [np.zeros((1, 2, 3))],
        lambda x: torch.linalg.vector_norm(x, p, dim=2, keepdim=True),
        attributes={"p": p},
    )
