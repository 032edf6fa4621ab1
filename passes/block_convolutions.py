"""Convolutions of a graph that runs on this machine's processor, in the layout of its kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, prod

import onnx_ir as ir

from .blocked_layout import ALIGNMENT, DOMAIN, BlockedLayout, Steps, known_sizes, reversed_kernel
from .blocked_volumes import BlockedVolumes, Depth
from .correlations import CORRELATION, Correlation
from .eliminate_dead_code import EliminateDeadCode
from .phases import phases_of
from .substitution import put_appended
from .tape import Tape, Tensor

Pair = tuple[int, int]

_FULL = 0.75
"""The least share that the channels have of the blocks that they are filled up to."""

_LARGER_KERNEL = 12
"""How many times as large as a sample a kernel may be: to add up larger gradients takes longer than it saves."""

_MOST_CHANNELS = 16
"""The most channels that a group has whose kernel's gradient takes less time channel by channel than as products."""


class BlockConvolutions(ir.passes.InPlacePass):
    """Compute convolutions, and the gradients of their kernels, in blocks of channels where that is faster.

    What comes out is for one kind of processor: a graph for a session, not for a file.

    Args:
        block: the elements of a block (see `blocked_layout`).

    Requires: shapes inferred; parameters are graph inputs, for a Conv by a constant the runtime lays out itself.
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
                replaced = last.outputs[0]
                result.value.shape = replaced.shape or result.value.shape
                put_appended(node, count, result.value, replaced)
                values[str(result.value.name)] = result.value
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
        self._volumes = BlockedVolumes(self._layout)

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
        if x is None or w is None or w.static_shape is None:
            return None
        if node.op_type == "Conv" and w.constant is not None:
            return None
        if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.attributes:
            return None
        if not _has_known_channels(x) or not _has_known_channels(y):
            return None
        if (node.op_type == "ConvTranspose" or x.rank == 5) and not (_has_known_sizes(x) and _has_known_sizes(y)):
            return None
        ones, zeros = (1,) * (x.rank - 2), (0,) * 2 * (x.rank - 2)
        pads = node.attributes.get_ints("pads", zeros)
        strides, dilations = (node.attributes.get_ints(name, ones) for name in ("strides", "dilations"))
        before, after = pads[: x.rank - 2], pads[x.rank - 2 :]
        steps = Steps(_pair(strides, 1), _pair(dilations, 1), _pair(before), _pair(after))
        group = node.attributes.get_int("group", 1)
        if x.rank == 5:
            depth = Depth(strides[0], dilations[0], before[0], *(known_sizes(each, 2)[0] for each in (w, x, y)))
            emit_volume = self._volume_transposed if node.op_type == "ConvTranspose" else self._volume
            return emit_volume(x, w, bias, y, depth, steps, activation) if group == 1 else None
        emit = self._conv_transpose if node.op_type == "ConvTranspose" else self._conv
        result = emit(_image(x), _image(w), bias, _image(y), steps, group, activation)
        return result if result is None or y.rank == 4 else result.squeeze([2])

    def _conv(
        self, x: Tensor, w: Tensor, bias: Tensor | None, y: Tensor, steps: Steps, group: int, activation: str | None
    ) -> Tensor | None:
        if _is_depthwise(w, group):
            return self._layout.convolve_depthwise(x, w, bias, steps, activation)
        many, channels, *kernel = known_sizes(w)
        full = many // group % self._block == channels % self._block == 0
        if prod(kernel) > 1 and (full if group > 1 else self._fill_blocks(many, channels)):
            return self._layout.convolve(x, w, bias, steps, activation, group)
        return None

    def _conv_transpose(
        self, y: Tensor, w: Tensor, bias: Tensor | None, x: Tensor, steps: Steps, group: int, activation: str | None
    ) -> Tensor | None:
        many, channels, *kernel = known_sizes(w)
        if _is_depthwise(w, group):
            spread = _of_spread_signal(x, w, y, steps)
            if min(*spread.before, *spread.after) >= 0:
                return self._layout.spread_depthwise(y, w, bias, steps.strides, spread, activation)
        elif (
            group == max(steps.dilations) == 1 < prod(kernel)
            and many >= self._block
            and self._fill_blocks(channels, many)
        ):
            phases = phases_of(known_sizes(x, 2), known_sizes(y, 2), kernel, steps.strides, steps.before)
            if phases is not None:
                return self._layout.convolve_transposed(y, w, bias, phases, activation)
        return None

    def _volume(
        self, x: Tensor, w: Tensor, bias: Tensor | None, y: Tensor, depth: Depth, steps: Steps, activation: str | None
    ) -> Tensor | None:
        many, channels, *kernel = known_sizes(w)
        if prod(kernel[1:]) == 1 or channels < self._block or not self._fill_blocks(many, channels):
            return None
        if not depth.is_met_by_every_tap:
            return None
        return self._volumes.convolve(x, w, bias, depth, steps, activation)

    def _volume_transposed(
        self, y: Tensor, w: Tensor, bias: Tensor | None, x: Tensor, depth: Depth, steps: Steps, activation: str | None
    ) -> Tensor | None:
        if max(depth.stride, *steps.strides) > 1:
            return None
        steps = _of_spread_signal(x, w, y, steps)
        if min(*steps.before, *steps.after) < 0:
            return None
        before = (depth.taps - 1) * depth.dilation - depth.before
        w = reversed_kernel(w).transpose([1, 0, 2, 3, 4])
        return self._volume(y, w, bias, x, replace(depth, before=before), steps, activation)

    def _correlation(self, op: Tape, node: ir.Node, values: Mapping[str, ir.Value]) -> Tensor | None:
        described = Correlation.from_json(node.metadata_props[CORRELATION])
        if described.long not in values or described.short not in values:
            return None
        x, y = op.tensor(values[described.long]), op.tensor(values[described.short])
        result = op.tensor(node.outputs[0])
        if not _has_known_channels(x) or not _has_known_channels(y) or result.static_shape is None:
            return None
        sized = _has_known_sizes(x) and _has_known_sizes(y)
        x, y, kernel = _image(x), _image(y), known_sizes(_image(result))
        if not sized:
            return self._correlate_any_size(x, y, kernel, described, result.rank)
        steps = _of_correlation(described, x, y, kernel[-2:])
        if result.rank == 5:
            sizes = (known_sizes(each, 2)[0] for each in (result, x, y))
            depth = Depth(described.strides[0], described.dilations[0], described.before[0], *sizes)
            return self._correlate_volumes(x, y, kernel, depth, steps) if described.group == 1 else None
        gradient = self._correlate(x, y, kernel, steps, described.group)
        return gradient if gradient is None or result.rank == 4 else gradient.squeeze([2])

    def _correlate(self, x: Tensor, y: Tensor, kernel: Sequence[int], steps: Steps, group: int) -> Tensor | None:
        many, channels = kernel[:2]
        if group > 1:
            suitable = channels <= _MOST_CHANNELS and many % ALIGNMENT == 0
            return self._layout.correlate_in_groups(x, y, steps, channels) if suitable else None
        larger = prod(kernel) > _LARGER_KERNEL * (prod(known_sizes(x, 1)) + prod(known_sizes(y, 1)))
        return self._layout.correlate(x, y, steps, kernel[2:]) if not larger and self._fill_blocks(many) else None

    def _correlate_any_size(
        self, x: Tensor, y: Tensor, kernel: Sequence[int], described: Correlation, rank: int
    ) -> Tensor | None:
        """Of signals whose heights or widths are not known, with windows one element apart."""
        if described.after is None or described.group > 1 or rank > 4 or not self._fill_blocks(kernel[0]):
            return None
        before, after = _pair(described.before), _pair(described.after)
        steps = Steps((1, 1), _pair(described.dilations, 1), before, after)
        gradient = self._layout.correlate(x, y, steps, kernel[2:])
        return gradient if rank == 4 else gradient.squeeze([2])

    def _correlate_volumes(
        self, x: Tensor, y: Tensor, kernel: Sequence[int], depth: Depth, steps: Steps
    ) -> Tensor | None:
        larger = prod(kernel) > _LARGER_KERNEL * (prod(known_sizes(x, 1)) + prod(known_sizes(y, 1)))
        if larger or depth.stride > 1 or prod(kernel[3:]) == 1 or not self._fill_blocks(kernel[0]):
            return None
        return self._volumes.correlate(x, y, depth, steps)

    def _fill_blocks(self, many: int, channels: int = 1) -> bool:
        """Whether a convolution of *channels* to *many* computes little in vain; less than a block goes as it is."""
        counts = [many] if channels < self._block else [many, channels]
        filled = (count / (ceil(count / self._block) * self._block) for count in counts)
        return all(count % ALIGNMENT == 0 for count in counts) and min(filled) >= _FULL


def _is_depthwise(w: Tensor, group: int) -> bool:
    """Whether each channel has one kernel, of *w*, and meets no other."""
    channels, per_group = known_sizes(w)[:2]
    return group == channels > 1 == per_group and channels % ALIGNMENT == 0


def _of_spread_signal(x: Tensor, w: Tensor, y: Tensor, steps: Steps) -> Steps:
    """The steps of the Conv by the reversed kernel that a ConvTranspose of *y* to *x* is, *y* being spread by zeros."""
    before, after = [], []
    for axis in range(2):
        kernel, long, short = (known_sizes(each, each.rank - 2)[axis] for each in (w, x, y))
        reach = (kernel - 1) * steps.dilations[axis]
        before.append(reach - steps.before[axis])
        after.append(long + reach - steps.strides[axis] * short - before[axis])
    return Steps((1, 1), steps.dilations, _pair(before), _pair(after))


def _of_correlation(described: Correlation, x: Tensor, y: Tensor, kernel: Sequence[int]) -> Steps:
    """The steps of the convolution whose *kernel* is wanted; behind *x* so many zeros as its last window meets."""
    strides, dilations, before = _pair(described.strides, 1), _pair(described.dilations, 1), _pair(described.before, 0)
    after = []
    for axis, size in enumerate(kernel):
        long, short = (known_sizes(each, each.rank - 2)[axis] for each in (x, y))
        span = (short - 1) * strides[axis] + (size - 1) * dilations[axis] + 1
        after.append(span - before[axis] - long)
    return Steps(strides, dilations, before, _pair(after))


def _with_relu(node: ir.Node) -> ir.Node:
    """The Relu that alone reads what a convolution computes; else *node* itself."""
    readers = node.outputs[0].consumers()
    if node.op_type not in ("Conv", "ConvTranspose") or node.outputs[0].is_graph_output() or len(readers) != 1:
        return node
    return readers[0] if readers[0].op_type == "Relu" and readers[0].graph is node.graph else node


def _has_known_channels(signal: Tensor) -> bool:
    """Whether *signal* is float32, of one to three dims, and it is known how many channels it has."""
    value = signal.value
    if value.dtype != ir.DataType.FLOAT or value.shape is None or value.shape.rank() not in (3, 4, 5):
        return False
    return isinstance(signal.shape[1], int) and signal.shape[1] > 0


def _has_known_sizes(signal: Tensor) -> bool:
    """Whether all sizes of *signal* but that of the batch are known."""
    return all(isinstance(dim, int) and dim > 0 for dim in signal.shape[1:])


def _image(signal: Tensor) -> Tensor:
    """*signal*, or a kernel, as one of two dims at least: one of one dim is an image of one row."""
    return signal.unsqueeze([2]) if signal.rank == 3 else signal


def _pair(numbers: Sequence[int], row: int = 0) -> Pair:
    """*numbers* along the last two axes, *row* along the first of an image of one row."""
    rows, columns = [row, *numbers][-2:]
    return rows, columns
