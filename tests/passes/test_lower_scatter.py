"""ScatterND with a reduction at positions that repeat."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

import onnxgrad
from onnxgrad.passes.lower_scatter import LowerScatter

from .running import check_pass, parse, run

REDUCTIONS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def operators(model: ir.Model) -> set[str]:
    return {node.op_type for node in model.graph.all_nodes()}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("sizes", [(4, 3, 5), ("a", "b", "c")])
@pytest.mark.parametrize(
    "indices", [[[2], [0], [2], [-2]], [[[2, 1], [2, -2]], [[0, 0], [2, 1]]], [[1, 2, 4], [-3, 2, -1]]]
)
def test_values_are_the_standards(reduction: str, sizes: tuple, indices: list) -> None:
    """Against NumPy's unbuffered operations."""
    array, shape = np.array(indices), (4, 3, 5)
    batch, depth = array.shape[:-1], array.shape[-1]
    text = f"""
        g (float[{", ".join(map(str, sizes))}] x, int64[{", ".join(map(str, array.shape))}] i,
           float[{", ".join(map(str, (*batch, *sizes[depth:])))}] u) => (float[{", ".join(map(str, sizes))}] y) {{
            y = ScatterND <reduction = "{reduction}"> (x, i, u)
        }}
    """
    generator = np.random.default_rng(0)
    x, updates = (generator.standard_normal(each).astype(np.float32) for each in (shape, (*batch, *shape[depth:])))
    model = parse(text)
    assert check_pass(LowerScatter(), model, {"x": x, "i": array, "u": updates}, rtol=1e-6)
    assert "ScatterND" not in operators(model)
    expected = x.copy()
    REDUCTIONS[reduction].at(expected, tuple(np.moveaxis(array, -1, 0)), updates)
    np.testing.assert_allclose(run(model, {"x": x, "i": array, "u": updates})["y"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("node", "stays"),
    [
        ("ScatterND <reduction = 'add'> (x, apart, u)", True),
        ("ScatterND <reduction = 'add'> (x, twice, u)", False),
        ("ScatterND (x, twice, u)", True),
    ],
)
def test_positions_that_are_known_to_differ_stay(node: str, stays: bool) -> None:
    """-1 and 3 are one position of four, -1 and 2 are two."""
    text = f"g (float[4, 2] x, float[2, 2] u) => (float[4, 2] y) {{ y = {node} }}".replace("'", '"')
    model = parse(text, initializers={"apart": np.array([[-1], [2]]), "twice": np.array([[-1], [3]])}, infer=False)
    feeds = {"x": np.ones((4, 2), np.float32), "u": np.ones((2, 2), np.float32)}
    assert check_pass(LowerScatter(), model, feeds) != stays
    assert ("ScatterND" in operators(model)) == stays


def test_in_a_branch() -> None:
    text = """
        g (bool c, float[4, 2] x, int64[3, 1] i, float[3, 2] u) => (float[4, 2] y) {
            y = If (c) <
                then_branch = t () => (float[4, 2] a) { a = ScatterND <reduction = "add"> (x, i, u) },
                else_branch = e () => (float[4, 2] b) { b = Identity(x) }
            >
        }
    """
    model = parse(text)
    feeds = {
        "c": np.array(True),
        "x": np.zeros((4, 2), np.float32),
        "i": np.array([[1], [1], [0]]),
        "u": np.ones((3, 2), np.float32),
    }
    assert check_pass(LowerScatter(), model, feeds)
    assert "ScatterND" not in operators(model)


def test_a_program_counts_every_update_on_several_threads() -> None:
    """ONNX Runtime's ScatterND lost some of these, in the forward part, too."""
    count, rows = 20000, 50
    text = f"""
        g (float[{rows}, 64] w, int64[{count}] i) => (float[{rows}, 64] y) {{
            axis = Constant <value_ints = [1]> ()
            zero = Constant <value_float = 0.0> ()
            sizes = Shape(w)
            zeros = Expand(zero, sizes)
            read = Gather(w, i)
            at = Unsqueeze(i, axis)
            y = ScatterND <reduction = "add"> (zeros, at, read)
        }}
    """
    program = onnxgrad.compile(parse(text), wrt="inputs")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 4
    session = program.session(providers=["CPUExecutionProvider"], options=options)
    positions = np.random.default_rng(0).integers(0, rows, count)
    counts = np.bincount(positions, minlength=rows).astype(np.float32)[:, None].repeat(64, 1)
    inputs = {"w": np.ones((rows, 64), np.float32), "i": positions}
    for _ in range(3):
        outputs, gradients = session.value_and_grad(inputs, {"y": np.ones((rows, 64), np.float32)})
        np.testing.assert_array_equal(outputs["y"], counts)
        np.testing.assert_array_equal(gradients["w"], counts)
