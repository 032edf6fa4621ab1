"""The graph of one optimizer step on one flat buffer, whole or block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from ...passes.tape import Tape, Tensor
from ..clipping import CLIP_BOUNDS, clipped
from .axpy import axpy_as_gemm, axpy_as_sum
from .rule import UpdateRule

OPSET = 18

BLOCK = 65_536
"""Elements a block: 256 kB of float32, so that what a step computes of a block stays in one core's cache."""


def update_model(
    rule: UpdateRule, dtype: ir.DataType, *, blocked: bool, gemm: bool, clip_value: bool, scaled: bool
) -> ir.Model:
    """The graph that makes one step of *rule* on buffers of *dtype*.

    Inputs are `parameter`, `gradient` and the states, of shape [1, n], or [n / BLOCK, 1, BLOCK] if *blocked*, then the
    rule's scalars, and those of clipping if *clip_value* or *scaled*, in the dtype of the arithmetic: float32 for
    narrower buffers, as PyTorch's kernels have it. Outputs are `parameter.next` and `<state>.next`, each of which may
    be written over its input.

    A blocked graph is a Scan of the chain: on a CPU, where the chain on its own goes to memory and back in each of
    its operators, a good deal faster; more so if each core runs it, in one thread, over blocks of its own. With *gemm*
    the sums are Gemms, where that is proven to work in place.
    """
    names = ["parameter", "gradient", *rule.states]
    arithmetic = dtype if dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
    # The proof that a Gemm may write over what it adds to allows no cast after it, and no other way to it.
    axpy = axpy_as_gemm if gemm and arithmetic == dtype and "weight_decay" not in rule.scalars else axpy_as_sum
    bounds = [ir.val(name, arithmetic, []) for name in CLIP_BOUNDS if clip_value]
    factors = [ir.val(name, arithmetic, [1, 1]) for name in (*(["grad_scale"] if scaled else []), *rule.scalars)]
    scalars = [*bounds, *factors]

    def chain(op: Tape, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Emit the step; the next parameter and states."""
        given = {str(scalar.name): op.tensor(scalar) for scalar in scalars}
        parameter, gradient, *old = (tensor.cast(arithmetic) for tensor in tensors)
        gradient = clipped(gradient, given)
        if "weight_decay" in given:
            gradient = axpy(given["weight_decay"], parameter, gradient)
        emitted = rule.next_states(gradient, dict(zip(rule.states, old, strict=True)), given, axpy)
        states = {name: emitted[name].cast(dtype) for name in rule.states}
        stored = {name: state.cast(arithmetic) for name, state in states.items()}
        return [rule.next_parameter(parameter, gradient, stored, given, axpy).cast(dtype), *states.values()]

    shape: list[int | str] = ["blocks", 1, BLOCK] if blocked else [1, "n"]
    tensors = [ir.val(name, dtype, shape) for name in names]
    graph = ir.Graph([*tensors, *scalars], [], nodes=[], opset_imports={"": OPSET}, name="update")
    op = Tape(graph, opset=OPSET)
    outer = [op.tensor(tensor) for tensor in tensors]
    results = _scan(op, outer, dtype, chain) if blocked else chain(op, outer)
    for name, result in zip(["parameter", *rule.states], results, strict=True):
        result.value.name = f"{name}.next"
        graph.outputs.append(result.value)
    return ir.Model(graph, ir_version=10)


def _scan(
    op: Tape, tensors: Sequence[Tensor], dtype: ir.DataType, chain: Callable[[Tape, Sequence[Tensor]], list[Tensor]]
) -> tuple[Tensor, ...]:
    """Run *chain* on each row of *tensors*."""
    rows = [ir.val(f"{tensor.value.name}.block", dtype, [1, BLOCK]) for tensor in tensors]
    body = ir.Graph(rows, [], nodes=[], opset_imports={"": OPSET}, name="block")
    inner = Tape(body, opset=OPSET)
    results = chain(inner, [inner.tensor(row) for row in rows])
    body.outputs.extend(result.value for result in results)
    return op.emit_many("Scan", *tensors, outputs=len(results), body=body, num_scan_inputs=len(tensors))
