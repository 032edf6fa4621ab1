"""The operators that read at computed positions against their contract."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
import torch

import onnxgrad
from onnxgrad.passes.errors import UnsupportedError
from onnxgrad.passes.forms import Alternatives
from onnxgrad.passes.registry import Registry
from onnxgrad.passes.rules import BUILTIN_RULES, scattering

from .checking import check_rule, joint_graph, run_runtime


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


INDICES = [
    np.array(1),
    np.array(-1),
    np.array([2]),
    np.array([0, 1, 2]),
    np.array([-2, -1]),
    np.array([-1, 0]),
    np.array([2, 0, 2, -1]),
    np.array([[0, 1], [2, 3]]),
    np.array([[1, 1], [-3, 1]], dtype=np.int32),
    np.zeros((0,), dtype=np.int64),
]


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("indices", INDICES)
@pytest.mark.parametrize("constants", [[], [1]])
def test_gather(indices: np.ndarray, axis: int, constants: list[int]) -> None:
    def function(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        index = indices.long() % x.shape[axis]
        index = (slice(None),) * (axis % 3) + (index,)
        return x[index]

    check_rule(
        "Gather",
        [sample(4, 5, 4), indices],
        attributes={"axis": axis},
        constants=constants,
        torch_function=function,
        second_order=axis == 1,
        runtime_dtypes=(np.float32, np.float16) if axis == 1 else (np.float32,),
    )


@pytest.mark.parametrize("form", ["slices", "elements", "product"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("indices", [np.array([2, 0, 2, -1, 0]), np.array([[1, 1], [-3, 1]], dtype=np.int32)])
def test_each_form_of_the_gradient_of_gather(form: str, axis: int, indices: np.ndarray) -> None:
    def choose(alternatives: Alternatives) -> str:
        return form if form in alternatives.forms else alternatives.expected

    check_rule(
        "Gather",
        [sample(4, 5, 4), indices],
        attributes={"axis": axis},
        torch_function=lambda x, i: x[(slice(None),) * axis + (i.long(),)],
        runtime_dtypes=(np.float32, np.float16) if axis == 0 else (np.float32,),
        rules=Registry(BUILTIN_RULES, choose=choose),
    )


@pytest.mark.parametrize(
    ("shape", "reads", "operator"),
    [
        ((3, 64), 500, "Gemm"),
        ((16, 8), "m", "Gemm"),
        ((16, 7), 500, "ScatterElements"),
        ((17, 64), 500, "ScatterElements"),
        (("n", 64), "m", "ScatterElements"),
    ],
)
def test_reads_of_few_positions_are_added_up_by_a_product(
    shape: tuple[int | str, ...], reads: int | str, operator: str
) -> None:
    rows, columns = shape
    forward = _model(
        f"g (float[{rows}, {columns}] x, int64[{reads}] i) => (float[{reads}, {columns}] y) {{ y = Gather(x, i) }}"
    )
    operators = {node.op_type for node in joint_graph(forward, ["x"], BUILTIN_RULES).graph.node}
    assert operators & {"Gemm", "ScatterElements"} == {operator}


@pytest.mark.parametrize(("rows", "reads", "rank"), [("n", "m", 1), (5000, "m", 2), (100, 400, 2)])
def test_reads_of_unknown_positions_have_indices_in_a_vector(rows: int | str, reads: int | str, rank: int) -> None:
    """ONNX Runtime takes them faster than a matrix of indices, but gradients of tables are then written once more."""
    forward = _model(f"g (float[{rows}, 8] x, int64[{reads}] i) => (float[{reads}, 8] y) {{ y = Gather(x, i) }}")
    joint = onnx.shape_inference.infer_shapes(joint_graph(forward, ["x"], BUILTIN_RULES))
    (scatter,) = [node for node in joint.graph.node if node.op_type == "ScatterElements"]
    (index,) = [value for value in joint.graph.value_info if value.name == scatter.input[1]]
    assert len(index.type.tensor_type.shape.dim) == rank


def test_gather_of_a_vector() -> None:
    check_rule("Gather", [sample(4), np.array([1, 1, 3])], torch_function=lambda x, i: x[i])
    check_rule("Gather", [sample(4), np.array(2)], torch_function=lambda x, i: x[i])


def test_many_reads_of_one_embedding_are_all_counted() -> None:
    """On several threads, and in float16 beyond the 2048 up to which it can count by ones."""
    tokens, width = 4096, 256
    forward = _model(
        f"g (float16[3, {width}] x, int64[{tokens}] i) => (float16[{tokens}, {width}] y) {{ y = Gather(x, i) }}"
    )
    feeds = {
        "x": np.zeros((3, width), np.float16),
        "i": np.arange(tokens) % 2,
        "y.grad_output": np.full((tokens, width), 2.0, np.float16),
    }
    (dx,) = run_runtime(joint_graph(forward, ["x"], BUILTIN_RULES), feeds, threads=4)
    np.testing.assert_array_equal(dx, np.repeat([[4096.0], [4096.0], [0.0]], width, axis=1))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("count", [2, 5])
def test_gather_elements(axis: int, count: int) -> None:
    shape = [3, 3, 3]
    shape[axis] = count
    check_rule(
        "GatherElements",
        [sample(3, 3, 3), np.random.default_rng(0).integers(-3, 3, shape)],
        attributes={"axis": axis},
        torch_function=lambda x, indices: torch.gather(x, axis, indices % 3),
    )


@pytest.mark.parametrize(("shape", "axis"), [((3, 2, 4), 1), ((5, 3), 0), ((2, 3, 2, 2), -3)])
def test_gather_elements_of_one_each(shape: tuple[int, ...], axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the form that compares, where there are few to choose from."""
    monkeypatch.setattr(scattering, "LEAST_BEHIND", 1)
    size, one = shape[axis], list(shape)
    one[axis] = 1
    indices = np.random.default_rng(0).integers(-size, size, one)
    check_rule(
        "GatherElements",
        [sample(*shape), indices],
        attributes={"axis": axis},
        torch_function=lambda x, indices: torch.gather(x, axis, indices % size),
    )


@pytest.mark.parametrize("axis", [1, -1])
def test_gather_elements_of_a_corner(axis: int) -> None:
    """In ONNX Runtime: the reference evaluator takes no negative axis, and wants the other sizes to be equal."""
    forward = _model(
        f"g (float[3, 4] x, int64[2, 2] i) => (float[2, 2] y) {{ y = GatherElements<axis = {axis}>(x, i) }}"
    )
    feeds = {
        "x": np.zeros((3, 4), np.float32),
        "i": np.array([[1, 1], [0, -1]]),
        "y.grad_output": np.array([[1, 2], [3, 4]], np.float32),
    }
    (dx,) = run_runtime(joint_graph(forward, ["x"], BUILTIN_RULES), feeds)
    np.testing.assert_array_equal(dx, [[0, 3, 0, 0], [3, 0, 0, 4], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("shape", "indices", "batch_dims"),
    [
        ((3, 4), [[0, 1], [2, 3], [0, 1]], 0),
        ((3, 4), [[0], [-1], [0]], 0),
        ((3, 4), [2, -1], 0),
        ((2, 3, 4), [[[0, 1]], [[1, -2]]], 0),
        ((2, 3, 4), [[[1], [1]], [[0], [-1]]], 1),
        ((2, 3, 4), [[[1, 0], [1, 0]], [[0, 3], [-1, -1]]], 1),
        ((2, 3, 4), [[1], [-1]], 1),
        ((2, 2, 3), [[[0], [1]], [[-1], [2]]], 2),
    ],
)
def test_gather_nd(shape: tuple[int, ...], indices: list, batch_dims: int) -> None:
    array = np.array(indices)

    def function(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        depth = i.shape[-1]
        batch = [
            torch.arange(shape[axis]).reshape([-1 if other == axis else 1 for other in range(i.ndim - 1)])
            for axis in range(batch_dims)
        ]
        return x[(*batch, *(i[..., axis] for axis in range(depth)))]

    for constants, dynamic in [([1], True), ([], False)]:
        check_rule(
            "GatherND",
            [sample(*shape), array],
            attributes={"batch_dims": batch_dims},
            constants=constants,
            torch_function=function,
            dynamic=dynamic,
        )


def test_gather_nd_reads_the_number_of_axes_off_the_output() -> None:
    forward = _model("g (float[3, 4] x, int64[2, depth] i) => (float[2, 4] y) { y = GatherND(x, i) }")
    joint = joint_graph(forward, ["x"], BUILTIN_RULES)
    dy = sample(2, 4).astype(np.float32)
    feeds = {"x": np.ones((3, 4), np.float32), "i": np.array([[2], [0]]), "y.grad_output": dy}
    (gradient,) = run_runtime(joint, feeds)
    np.testing.assert_array_equal(gradient, [dy[1], np.zeros(4), dy[0]])


def test_gather_nd_along_an_unknown_number_of_axes_is_refused() -> None:
    forward = _model("g (float[3, 4] x, int64[2, depth] i) => (float y) { z = GatherND(x, i) y = ReduceSum(z) }")
    with pytest.raises(UnsupportedError, match="how many axes it indexes"):
        onnxgrad.compile(forward, wrt=["x"])


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("condition", [[True, False, True], [False, True], [False, False, False]])
def test_compress(axis: int | None, condition: list[bool]) -> None:
    def function(x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        positions = chosen.nonzero()[:, 0]
        return x.reshape(-1)[positions] if axis is None else x.index_select(axis, positions)

    check_rule(
        "Compress",
        [sample(3, 4, 3), np.array(condition)],
        attributes={} if axis is None else {"axis": axis},
        torch_function=function,
    )


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(axis: int, largest: int) -> None:
    x = np.random.default_rng(0).permutation(24).reshape(3, 4, 2) / 8 - 1.0
    check_rule(
        "TopK",
        [x, np.array([2])],
        attributes={"axis": axis, "largest": largest},
        constants=[1],
        outputs=2,
        torch_function=lambda x, k: torch.topk(x, 2, axis, largest=bool(largest)).values,
    )


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_hot(axis: int) -> None:
    def function(indices: torch.Tensor, depth: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        hot = torch.nn.functional.one_hot(indices % 4, 4).bool().movedim(-1, axis)
        return torch.where(hot, values[1], values[0])

    check_rule(
        "OneHot",
        [np.array([[0, 3, -1], [2, 2, 1]]), np.array(4), np.array([0.5, 2.0])],
        attributes={"axis": axis},
        constants=[1],
        torch_function=function,
        runtime_dtypes=(np.float32,),
    )


def test_unique() -> None:
    """Of distinct values, where it is a permutation (PyTorch has no derivative of it)."""
    check_rule("Unique", [sample(3, 4)], runtime_dtypes=(np.float32,))


@pytest.mark.parametrize(("is_sorted", "expected"), [(1, [30, 10, 0, 20, 0]), (0, [10, 20, 0, 30, 0])])
def test_unique_sends_the_cotangent_to_the_first_of_equal_values(is_sorted: int, expected: list[int]) -> None:
    forward = _model(f"g (float[5] x) => (float[k] y) {{ y = Unique<sorted = {is_sorted}>(x) }}")
    feeds = {"x": np.array([3, 1, 3, 2, 1], np.float32), "y.grad_output": np.array([10, 20, 30], np.float32)}
    (dx,) = run_runtime(joint_graph(forward, ["x"], BUILTIN_RULES), feeds)
    np.testing.assert_array_equal(dx, expected)


@pytest.mark.parametrize("axis", [0, -1])
def test_unique_slices(axis: int) -> None:
    """No second derivative by the evaluator, which sorts slices of equal first elements as it likes."""
    check_rule("Unique", [sample(3, 4)], attributes={"axis": axis}, runtime_dtypes=(np.float32,))


def test_unique_slices_send_the_cotangent_to_the_first_of_equal_ones() -> None:
    forward = _model("g (float[4,2] x) => (float[k,2] y) { y = Unique<axis = 0>(x) }")
    x = np.array([[2, 1], [0, 5], [2, 1], [0, 5]], np.float32)
    seed = np.array([[1, 2], [3, 4]], np.float32)
    (dx,) = run_runtime(joint_graph(forward, ["x"], BUILTIN_RULES), {"x": x, "y.grad_output": seed})
    np.testing.assert_array_equal(dx, [[3, 4], [1, 2], [0, 0], [0, 0]])


def _model(graph: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {graph}')
