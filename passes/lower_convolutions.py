"""Convolutions by 3 x 3 kernels in the form that takes the least time, forward and backward together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import ceil, prod

import onnx_ir as ir

from .differentiate import FORWARD_NODE, RULE, differentiate
from .forms import Alternatives
from .memory_of_values import NOMINAL_SIZE
from .registry import Registry
from .rules import has_builtin_rule
from .substitution import move_before, substitute
from .tape import Tape, Tensor
from .winograd import convolve_in_tiles

_WIDE = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
"""In a narrower type the sums of the transforms would lose what it has."""

_MANY_CHANNELS = 96
"""So many multiplications saved for each transformed element are worth it at any size."""

_SOME_CHANNELS = 40
"""So many are while the transformed signals lie in the caches."""

_LARGEST_SIGNALS = 1 << 17
"""The most elements of both signals of a sample which do."""

_FEWEST_TILES = 24
"""With fewer, to transform the kernel costs more than the products save."""


class LowerConvolutions(ir.passes.InPlacePass):
    """Write a Conv by a 3 x 3 kernel, at stride 1 in one group, as Winograd's minimal filtering where that is faster.

    Its VJP is that of what it consists of: the transformed signal and cotangent serve three of the six sets of
    products each, and are computed once.

    Args:
        rules: the VJP rules. A Conv that has another than the built-in one stays; and they choose the form.
        protected: names of values that must stay.

    Requires: the canonical form, shapes inferred; the graph is not differentiated.
    Guarantees: values change by rounding only.
    """

    def __init__(self, rules: Registry, protected: Collection[str] = ()) -> None:
        self._rules = rules
        self._protected = frozenset(protected)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        tape = Tape(graph, opset=model.opset_imports[""])
        lowered = [node for node in graph if self._can_be_lowered(node) and self._choose(tape, node) == "TILES"]
        for node in lowered:
            name = node.name or str(node.outputs[0].name)
            tape.at(name, {FORWARD_NODE: name, RULE: node.op_type, **node.metadata_props})
            count = len(graph)
            result = _lowered(tape, node)
            move_before(node, count)
            substitute(node.outputs[0], result.value, self._protected)
        return ir.passes.PassResult(model, bool(lowered))

    def _can_be_lowered(self, node: ir.Node) -> bool:
        if node.op_type != "Conv" or node.domain != "" or node.outputs[0].name in self._protected:
            return False
        if not has_builtin_rule(self._rules, node):
            return False
        x, w = node.inputs[0], node.inputs[1]
        if x is None or x.shape is None or x.dtype not in _WIDE or w is None or w.shape is None:
            return False
        known = w.shape.is_static() and all(isinstance(dim, int) for dim in x.shape[1:])
        unit = all(factor == 1 for name in ("strides", "dilations") for factor in node.attributes.get_ints(name, ()))
        automatic = node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
        return known and tuple(w.shape[2:]) == (3, 3) and unit and w.shape[1] == x.shape[1] and not automatic

    def _choose(self, tape: Tape, node: ir.Node) -> str:
        """DIRECT or TILES."""
        x, w, y = (tape.tensor(value) for value in (*node.inputs[:2], node.outputs[0]) if value is not None)
        pads = _pads(node)
        forms: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "DIRECT": lambda x, w: x.op.Conv(x, w, pads=pads),
            "TILES": lambda x, w: convolve_in_tiles(x, w, pads),
        }
        steps = {name: lambda x, w, dy, form=form: self._step(form, x, w, dy) for name, form in forms.items()}
        expected = "TILES" if suits_tiles(x, y) else "DIRECT"
        alternatives = Alternatives("convolution", (x, w, y), {"pads": pads}, steps, expected, plain="DIRECT")
        return self._rules.choose(alternatives)

    def _step(self, form: Callable[[Tensor, Tensor], Tensor], x: Tensor, w: Tensor, dy: Tensor) -> Tensor:
        """The result of *form* and its cotangents, side by side: it is all three that are to be fast."""
        y, graph = form(x, w), x.op.graph
        cotangents = differentiate(graph, {y.value: dy.value}, [x.value, w.value], self._rules)
        op = Tape(graph)
        flat = [op.tensor(value).reshape([-1]) for value in (y.value, *cotangents.values())]
        return op.Concat(*flat, axis=0)


def suits_tiles(x: Tensor, y: Tensor) -> bool:
    """Whether a convolution from *x* to *y* is expected to be faster in tiles.

    Measured in ONNX Runtime on 2 cores. Between signals of C and M channels, C·M multiplications are saved for C + M
    elements that are transformed.
    """
    batch, channels, *_ = x.shape
    many, *size = (dim for dim in y.shape[1:] if isinstance(dim, int))
    assert isinstance(channels, int)
    samples = batch if isinstance(batch, int) else NOMINAL_SIZE
    tiles = samples * prod(ceil(extent / 2) for extent in size)
    saved = channels * many / (channels + many)
    cached = prod(size) * (channels + many) <= _LARGEST_SIGNALS
    return tiles >= _FEWEST_TILES and saved >= (_SOME_CHANNELS if cached else _MANY_CHANNELS)


def _lowered(op: Tape, node: ir.Node) -> Tensor:
    x, w, bias = (None if value is None else op.tensor(value) for value in (*node.inputs, None)[:3])
    assert x is not None
    assert w is not None
    if not isinstance(x.shape[0], int):
        # ONNX Runtime 1.31 sets only the first of several products over no samples to zero.
        w = op.Where(op.Size(x) > 0, w, op.constant(0, w.dtype))
    y = convolve_in_tiles(x, w, _pads(node))
    return y if bias is None else y + bias.unsqueeze([1, 2])


def _pads(node: ir.Node) -> list[int]:
    return list(node.attributes.get_ints("pads", (0, 0, 0, 0)))
