"""The gradients of convolution kernels in the form that takes the least time."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir

from .correlations import CORRELATION, KERNEL, Correlation
from .eliminate_common_subexpressions import EliminateCommonSubexpressions
from .eliminate_dead_code import EliminateDeadCode
from .registry import Registry
from .rules.convolution_forms import weight_forms
from .rules.sizes import join_sizes, size_of
from .rules.sliding_windows import Windows
from .subgraphs import all_graphs
from .substitution import move_before, substitute
from .tape import Tape, Tensor


class LowerCorrelations(ir.passes.InPlacePass):
    """Write each Conv that a rule marked as a correlation in the form that its registry chooses.

    The last node of that form says which values it correlates, as `Correlation`.

    Args:
        rules: the VJP rules, which choose the forms.
        protected: names of values that stay.

    Requires: shapes inferred; no pass that follows replaces a value by one of another name, unless that it is willing
    to lose the description. Guarantees: values change by rounding only.
    """

    def __init__(self, rules: Registry, protected: Collection[str] = ()) -> None:
        self._rules = rules
        self._protected = frozenset(protected)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        outer = Tape(model.graph, opset=model.opset_imports[""])
        lowered = False
        for graph in list(all_graphs(model.graph)):
            marked = []
            positions = {}
            for position, node in enumerate(graph):
                # Of a graph that was compiled before, whose values bear other names by now.
                node.metadata_props.pop(CORRELATION, None)
                positions[node] = position
                if KERNEL in node.metadata_props:
                    marked.append(node)
            tape = outer if graph is model.graph else outer.body(graph)
            for node in marked:
                self._lower(tape, node, positions)
            lowered = lowered or bool(marked)
        if lowered:
            EliminateCommonSubexpressions(self._protected).call(model)
            EliminateDeadCode(self._protected).call(model)
        return ir.passes.PassResult(model, lowered)

    def _lower(self, op: Tape, node: ir.Node, positions: Mapping[ir.Node, int]) -> None:
        kernel = [int(size) for size in json.loads(node.metadata_props.pop(KERNEL))]
        count = len(op.graph)
        op.at(node.name or CORRELATION, dict(node.metadata_props))
        group = node.attributes.get_int("group", 1)
        x, y = (op.tensor(value) for value in node.inputs if value is not None)
        long, short = _ungrouped(x, group), _known_swapped(y, node, positions) or _swapped(y)
        windows = _windows(node, long, short, kernel[2:])
        like = op.tensor(ir.Value(name="kernel", type=ir.TensorType(x.dtype), shape=ir.Shape(kernel)))
        forms = weight_forms(long, short, like, windows, group)
        form = self._rules.choose(forms)
        swapped = gradient = _reader_that_swaps(node)
        batch = long.shape[0]
        # The Conv that is there does not know of batches without samples, as the form does.
        if form != forms.plain or not isinstance(batch, int) or batch == 0:
            result = forms.emit(form)
            if swapped is not None and swapped.shape is not None:
                result.value.shape = swapped.shape
            old, new = (node.outputs[0], _swapped(result)) if swapped is None else (swapped, result)
            move_before(node, count)
            substitute(old, new.value, self._protected)
            gradient = result.value
        if gradient is not None and gradient.shape == ir.Shape(kernel):
            last = gradient.producer()
            assert last is not None
            pads = tuple(node.attributes.get_ints("pads", (0,) * 2 * len(windows)))
            strides = tuple(each.stride for each in windows)
            description = Correlation(
                str(long.value.name),
                str(short.value.name),
                tuple(kernel[2:]),
                strides,
                tuple(each.dilation for each in windows),
                pads[: len(windows)],
                group,
                pads[len(windows) :] if max(strides) == 1 else None,
            )
            last.metadata_props[CORRELATION] = description.to_json()


def _windows(node: ir.Node, long: Tensor, short: Tensor, kernel: Sequence[int]) -> list[Windows]:
    """Those of the convolution whose kernel *node* computes the gradient of: strides and dilations change places."""
    rank = len(kernel)
    pads = node.attributes.get_ints("pads", (0,) * 2 * rank)
    windows = []
    for axis, size in enumerate(kernel):
        stride = node.attributes.get_ints("dilations", (1,) * rank)[axis]
        dilation = node.attributes.get_ints("strides", (1,) * rank)[axis]
        before, after, extent, count = pads[axis], pads[axis + rank], long.shape[axis + 2], short.shape[axis + 2]
        slack = 0 if stride == 1 else None
        if isinstance(extent, int) and isinstance(count, int):
            slack = before + extent + after - (count - 1) * stride - (size - 1) * dilation - 1
        windows.append(Windows(stride, dilation, before, after, slack))
    return windows


def _swapped(signal: Tensor) -> Tensor:
    """*signal* with its first two axes in each other's place; where a Transpose has done that, what it has read."""
    node = signal.value.producer()
    if node is not None and _swaps(node):
        assert node.inputs[0] is not None
        return signal.op.tensor(node.inputs[0])
    return signal.transpose([1, 0, *range(2, signal.rank)])


def _known_swapped(signal: Tensor, reader: ir.Node, positions: Mapping[ir.Node, int]) -> Tensor | None:
    """What is computed before *reader* and is *signal* with its first two axes in each other's place, if anything.

    Where a signal has been transposed before it was swapped, one Transpose does both, and another its own part.
    """
    node = signal.value.producer()
    if node is None or node.op_type != "Transpose" or node.inputs[0] is None or "perm" not in node.attributes:
        return None
    first, second, *rest = node.attributes.get_ints("perm")
    for other in node.inputs[0].consumers():
        known = positions.get(other, len(positions)) < positions[reader] and other.op_type == "Transpose"
        if known and list(other.attributes.get_ints("perm", ())) == [second, first, *rest]:
            return signal.op.tensor(other.outputs[0])
    return None


def _swaps(node: ir.Node) -> bool:
    """Whether *node* puts the first two axes in each other's place; where one has the size 1, a Reshape does."""
    before, after = node.inputs[0], node.outputs[0]
    if node.op_type == "Transpose":
        perm = node.attributes.get_ints("perm", ())
        return list(perm) == [1, 0, *range(2, len(perm))]
    if node.op_type != "Reshape" or before is None or before.shape is None or after.shape is None:
        return False
    old, new = list(before.shape), list(after.shape)
    return 1 in old[:2] and None not in old and new == [*old[1::-1], *old[2:]]


def _reader_that_swaps(node: ir.Node) -> ir.Value | None:
    """What the only reader of *node* gives if it is a Transpose of the first two axes."""
    readers = node.outputs[0].consumers()
    return readers[0].outputs[0] if len(readers) == 1 and _swaps(readers[0]) else None


def _ungrouped(signal: Tensor, group: int) -> Tensor:
    """*signal* (channels, group · batch, …) as (batch, group · channels, …), as it was before `correlate`."""
    if group == 1:
        return _swapped(signal)
    source = _before_grouping(signal, group)
    if source is not None:
        return source
    op, (channels, *positions) = signal.op, (size_of(signal, axis) for axis in (0, *range(2, signal.rank)))
    split = signal.reshape(join_sizes(op, [channels, group, -1, *positions]))
    swapped = split.transpose([2, 1, 0, *range(3, split.rank)])
    return swapped.reshape(join_sizes(op, [-1, channels * group, *positions]))


def _before_grouping(signal: Tensor, group: int) -> Tensor | None:
    """What `correlate` has split, transposed and joined to *signal*; None if that has been simplified since."""
    swapped = _source(signal, "Reshape")
    split = swapped and _source(swapped, "Transpose")
    source = split and _source(split, "Reshape")
    if swapped is None or split is None or source is None or None in (*split.shape, *source.shape):
        return None
    channels, _, *positions = signal.shape
    transposition = swapped.value.producer()
    assert transposition is not None
    assert isinstance(channels, int)
    batch = source.shape[0]
    if source.shape != (batch, group * channels, *positions) or split.shape != (batch, group, channels, *positions):
        return None
    perm = transposition.attributes.get_ints("perm", ())
    return source if list(perm) == [2, 1, 0, *range(3, split.rank)] else None


def _source(tensor: Tensor, op_type: str) -> Tensor | None:
    """What the node that computes *tensor* reads, if that is an *op_type* and the rank of it is known."""
    node = tensor.value.producer()
    if node is None or node.op_type != op_type or node.inputs[0] is None or node.inputs[0].shape is None:
        return None
    return tensor.op.tensor(node.inputs[0])
