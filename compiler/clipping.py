"""Clipping of gradients, folded into the graph that reads them, so that it takes no pass over memory of its own."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from ..passes.tape import Tape, Tensor

MAX_NORM_EPS = 1e-6
"""Added to the norm before dividing by it, as `torch.nn.utils.clip_grad_norm_` does."""

ROW = 128
"""Elements whose squares are summed in float32, few enough to lose nothing; rows are added up in double precision."""

CLIP_BOUNDS = ("clip_min", "clip_max")
"""The scalar inputs, of shape [], that clipping by value reads."""

OPSET = 18


def clip_factor(norm: float, max_norm: float) -> float:
    """The factor that brings gradients of total *norm* down to *max_norm*: `torch.nn.utils.clip_grad_norm_`."""
    return min(1.0, max_norm / (norm + MAX_NORM_EPS))


def clip_coefficients(*, grad_scale: float, value: float | None, factor: float) -> dict[str, float]:
    """The values of what `clipped` reads, for gradients that count times *grad_scale* (more than 0).

    Args:
        value: the largest magnitude of an element of the scaled gradient.
        factor: what `clip_factor` gave; applied last.
    """
    coefficients = {"grad_scale": grad_scale * factor}
    if value is not None:
        coefficients |= {"clip_min": -value / grad_scale, "clip_max": value / grad_scale}
    return coefficients


def clipped(gradient: Tensor, scalars: Mapping[str, Tensor]) -> Tensor:
    """Clip each element (`torch.nn.utils.clip_grad_value_`), if there are bounds, and scale, if there is a scale."""
    if "clip_min" in scalars:
        gradient = gradient.op.Clip(gradient, scalars["clip_min"], scalars["clip_max"])
    return gradient * scalars["grad_scale"] if "grad_scale" in scalars else gradient


def squared_norm_model(dtype: ir.DataType, *, clip_value: bool) -> ir.Model:
    """The graph of the sums of squares of a flat buffer of *dtype*, after clipping by value if *clip_value*.

    Inputs are `gradient`, of shape [rows, ROW], and `CLIP_BOUNDS`; the output is `squared_norms`, of shape [rows],
    in float32, or float64 for a float64 buffer.
    """
    arithmetic = dtype if dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
    gradient = ir.val("gradient", dtype, ["rows", ROW])
    bounds = [ir.val(name, arithmetic, []) for name in CLIP_BOUNDS if clip_value]
    graph = ir.Graph([gradient, *bounds], [], nodes=[], opset_imports={"": OPSET}, name="squared_norm")
    op = Tape(graph, opset=OPSET)
    elements = op.tensor(gradient).cast(arithmetic)
    if clip_value:
        elements = op.Clip(elements, *map(op.tensor, bounds))
    norms = op.ReduceSumSquare(elements, op.ints([1]), keepdims=0).value
    norms.name = "squared_norms"
    graph.outputs.append(norms)
    return ir.Model(graph, ir_version=10)
