"""Convolutions of a graph that runs on this machine's processor, in the layout of its kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, prod

import onnx_ir as ir

from .blocked_layout import ALIGNMENT, DOMAIN, BlockedLayout, Steps
from .correlations import CORRELATION, Correlation
from .eliminate_dead_code import EliminateDeadCode
from .substitution import move_before, substitute
from .tape import Tape, Tensor

Pair = tuple[int, int]

_FULL = 0.75
"""The least share that the channels have of the blocks that they are filled up to."""


class BlockConvolutions(ir.passes.InPlacePass):
    """Compute convolutions, and the gradients of their kernels, in blocks of channels where that is faster.

    What comes out is for one kind of processor: a graph for a session, not for a file.

    Args:
        block: the elements of a block (see `blocked_layout`).

    Requires: shapes inferred; parameters are graph inputs, for constants the runtime lays out itself.
    Guarantees: values change by rounding only, and keep their names.
    """

    def __init__(self, block: int) -> None:
        self._block = block

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        tape = Tape(graph, opset=model.opset_imports[""])
        emitter = _Emitter(self._block)
        values = {str(value.name): value for value in graph.inputs}
        modified = False
        for node in list(graph):
            if node.graph is None:  # a Relu that is computed with the Conv before it
                continue
            count = len(graph)
            tape.at(node.name or node.op_type, node.metadata_props)
            last = _with_relu(node)
            result = emitter.emit(tape, node, values, "Relu" if last is not node else None)
            values |= {str(value.name): value for value in node.outputs}
            if result is not None:
                replaced, name = last.outputs[0], str(last.outputs[0].name)
                move_before(node, count)
                substitute(replaced, result.value)
                result.value.name, replaced.name = name, None
                values[name] = result.value
                modified = True
        if modified:
            graph.opset_imports[DOMAIN] = model.opset_imports[DOMAIN] = 1
            EliminateDeadCode().call(model)
        return ir.passes.PassResult(model, modified)


class _Emitter:
    """Emits what single nodes compute in blocks of *block* channels, or nothing where they should stay."""

    def __init__(self, block: int) -> None:
        self._block = block
        self._layout = BlockedLayout(block)

    def emit(self, op: Tape, node: ir.Node, values: Mapping[str, ir.Value], activation: str | None) -> Tensor | None:
        """What *node* computes, or the *activation* of that.

        Args:
            values: those that are computed before it, by name.
        """
        if CORRELATION in node.metadata_props:
            return self._correlation(op, node, values)
        if node.domain != "" or node.op_type not in ("Conv", "ConvTranspose"):
            return None
        x, w, bias = (None if value is None else op.tensor(value) for value in (*node.inputs, None)[:3])
        y = op.tensor(node.outputs[0])
        if x is None or w is None or w.constant is not None or w.static_shape is None:
            return None
        if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.attributes:
            return None
        if not _has_known_sizes(x) or not _has_known_sizes(y):
            return None
        transposed = node.op_type == "ConvTranspose"
        channels, per_group = w.static_shape[:2]
        group = node.attributes.get_int("group", 1)
        depthwise = group == channels > 1 == per_group and channels % ALIGNMENT == 0
        strides, dilations = (_pair(node.attributes.get_ints(name, (1, 1))) for name in ("strides", "dilations"))
        pads = node.attributes.get_ints("pads", (0, 0, 0, 0))
        steps = Steps(strides, dilations, _pair(pads[:2]), _pair(pads[2:]))
        dense = group == 1 and prod(w.static_shape[2:]) > 1
        if transposed:
            spread = _of_spread_signal(x, w, y, steps)
            if min(*spread.before, *spread.after) < 0:
                return None
            if depthwise:
                return self._layout.spread_depthwise(x, w, bias, strides, spread, activation)
            if dense and max(strides) == 1 and self._fill_blocks(per_group, channels):
                return self._layout.convolve_transposed(x, w, bias, spread, activation)
        elif depthwise:
            return self._layout.convolve_depthwise(x, w, bias, steps, activation)
        elif dense and self._fill_blocks(channels, per_group):
            return self._layout.convolve(x, w, bias, steps, activation)
        return None

    def _correlation(self, op: Tape, node: ir.Node, values: Mapping[str, ir.Value]) -> Tensor | None:
        described = Correlation.from_json(node.metadata_props[CORRELATION])
        if described.long not in values or described.short not in values or len(described.kernel) != 2:
            return None
        x, y = op.tensor(values[described.long]), op.tensor(values[described.short])
        kernel = op.tensor(node.outputs[0]).static_shape
        if not _has_known_sizes(x) or not _has_known_sizes(y) or kernel is None:
            return None
        steps = _of_correlation(described, x, y)
        (channels, *long), (many, *short) = _known(x), _known(y)
        if described.group == channels == many > 1 and many % ALIGNMENT == 0:
            return self._layout.correlate_depthwise(x, y, steps)
        # To add up larger gradients of single samples takes longer than it saves.
        larger = prod(kernel) > channels * prod(long) + many * prod(short)
        if described.group == 1 and not larger and self._fill_blocks(many):
            return self._layout.correlate(x, y, steps)
        return None

    def _fill_blocks(self, many: int, channels: int = 1) -> bool:
        """Whether a convolution of *channels* to *many* computes little in vain; less than a block goes as it is."""
        counts = [many] if channels < self._block else [many, channels]
        filled = (count / (ceil(count / self._block) * self._block) for count in counts)
        return all(count % ALIGNMENT == 0 for count in counts) and min(filled) >= _FULL


def _of_spread_signal(x: Tensor, w: Tensor, y: Tensor, steps: Steps) -> Steps:
    """The steps of the Conv by the reversed kernel that a ConvTranspose is, once zeros are between its elements."""
    before, after = [], []
    for axis in range(2):
        reach = (_known(w)[axis + 1] - 1) * steps.dilations[axis]
        before.append(reach - steps.before[axis])
        after.append(_known(y)[axis + 1] + reach - steps.strides[axis] * _known(x)[axis + 1] - before[axis])
    return Steps((1, 1), steps.dilations, _pair(before), _pair(after))


def _of_correlation(described: Correlation, x: Tensor, y: Tensor) -> Steps:
    """The steps of the convolution whose kernel is wanted; behind *x* so many zeros as its last window meets."""
    after = []
    for axis, size in enumerate(described.kernel):
        span = (_known(y)[axis + 1] - 1) * described.strides[axis] + (size - 1) * described.dilations[axis] + 1
        after.append(span - described.before[axis] - _known(x)[axis + 1])
    return Steps(*map(_pair, (described.strides, described.dilations, described.before, after)))


def _with_relu(node: ir.Node) -> ir.Node:
    """The Relu that alone reads what a convolution computes; else *node* itself."""
    readers = node.outputs[0].consumers()
    if node.op_type not in ("Conv", "ConvTranspose") or node.outputs[0].is_graph_output() or len(readers) != 1:
        return node
    return readers[0] if readers[0].op_type == "Relu" and readers[0].graph is node.graph else node


def _has_known_sizes(signal: Tensor) -> bool:
    """Whether *signal* is float32, of two dims, and all its sizes but that of the batch are known."""
    value = signal.value
    if value.dtype != ir.DataType.FLOAT or value.shape is None or value.shape.rank() != 4:
        return False
    return all(isinstance(dim, int) and dim > 0 for dim in signal.shape[1:])


def _known(x: Tensor) -> list[int]:
    """The sizes of *x* but the first one."""
    return [dim for dim in x.shape[1:] if isinstance(dim, int)]


def _pair(numbers: Iterable[int]) -> Pair:
    first, second = numbers
    return first, second
