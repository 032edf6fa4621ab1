"""Automatic padding of convolutions, in numbers."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from .attributes import make_attribute
from .subgraphs import all_graphs


class ExplicitPads(ir.passes.InPlacePass):
    """Give a Conv the `pads` that its `auto_pad` comes to, where sizes are known (TensorFlow's exports have SAME).

    What later passes and sessions make of convolutions they make of those whose padding is known.

    Requires: shapes inferred; the opset is the canonical one. Guarantees: values do not change.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in (node for graph in all_graphs(model.graph) for node in graph):
            automatic = node.attributes.get_string("auto_pad", "NOTSET") if node.op_type == "Conv" else "NOTSET"
            if automatic == "NOTSET" or node.domain != "":
                continue
            pads = _pads(node, automatic)
            if pads is not None:
                del node.attributes["auto_pad"]
                node.attributes["pads"] = make_attribute("pads", pads)
                modified = True
        return ir.passes.PassResult(model, modified)


def _pads(node: ir.Node, automatic: str) -> Sequence[int] | None:
    """Those before every axis, then those after it; None where they depend on a size that is not known."""
    x, w = node.inputs[:2]
    if x is None or x.shape is None or w is None or w.shape is None:
        return None
    kernel = node.attributes.get_ints("kernel_shape", tuple(w.shape[2:]))
    ones = (1,) * len(kernel)
    strides, dilations = node.attributes.get_ints("strides", ones), node.attributes.get_ints("dilations", ones)
    if automatic == "VALID":
        return [0] * 2 * len(kernel)
    before, after = [], []
    for size, taps, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        if not isinstance(taps, int) or not (stride == 1 or isinstance(size, int)):
            return None
        extent = (taps - 1) * dilation + 1
        # There are as many windows as strides begin within the axis (ONNX spec, Conv).
        total = extent - 1 if not isinstance(size, int) else max((-(-size // stride) - 1) * stride + extent - size, 0)
        less = total // 2
        before.append(less if automatic == "SAME_UPPER" else total - less)
        after.append(total - before[-1])
    return [*before, *after]
