"""Which operators are linear in which of their inputs: their tangents need no derivative, but the operator itself."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .rewriting import int_attribute


@dataclass(frozen=True)
class Linearity:
    """The outputs are f(a, b, …) + c, where f is linear in each of a, b, … when the others stay.

    Attributes:
        factors: a, b, …, each of them one input by its index, or several in which f is linear together.
        addends: the inputs that c comes from: f is what the operator gives when they are omitted, or zero.
    """

    factors: tuple[tuple[int, ...], ...]
    addends: tuple[int, ...] = ()


def linearity_of(node: ir.Node) -> Linearity | None:
    """How the outputs of the standard operator *node* depend on its inputs; None if it is linear in none of them."""
    kind = node.op_type
    if node.domain not in ("", "ai.onnx") or _is_bent(node):
        return None
    if kind in _TOGETHER:
        return Linearity((tuple(range(len(node.inputs))),))
    if kind in _EACH:
        return Linearity(tuple((index,) for index in range(len(node.inputs))))
    return _FIRST if kind in _IN_THE_FIRST else _OTHERS.get(kind)


def _is_bent(node: ir.Node) -> bool:
    """Whether the attributes of *node* make another function of its operator than what is declared here."""
    if node.op_type == "BatchNormalization":
        return bool(int_attribute(node, "training_mode", 0))
    if node.op_type == "Resize":  # which may have a value outside
        return node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    if node.op_type in ("ScatterElements", "ScatterND"):
        return node.attributes.get_string("reduction", "none") not in ("none", "add")
    return False


_TOGETHER = frozenset("Add Concat Mean Sub Sum".split())
"""Linear in all inputs together."""

_EACH = frozenset("Einsum MatMul Mul".split())
"""Linear in each of the inputs."""

_IN_THE_FIRST = frozenset(
    "AveragePool Cast CastLike CenterCropPad Col2Im Compress CumSum DFT DepthToSpace Div Expand Flatten Gather "
    "GatherElements GatherND GlobalAveragePool GridSample Identity Neg ReduceMean ReduceSum Reshape Resize "
    "ReverseSequence RotaryEmbedding Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze".split()
)
"""Linear in the first input."""

_FIRST = Linearity(((0,),))

_OTHERS = {
    "BatchNormalization": Linearity(((0, 3), (1,)), (2,)),  # of x less the mean, and of the scale
    "Conv": Linearity(((0,), (1,)), (2,)),
    "ConvTranspose": Linearity(((0,), (1,)), (2,)),
    "Gemm": Linearity(((0,), (1,)), (2,)),
    "GroupNormalization": Linearity(((1,),), (2,)),
    "InstanceNormalization": Linearity(((1,),), (2,)),
    "LayerNormalization": Linearity(((1,),), (2,)),
    "OneHot": Linearity(((2,),)),
    "Pad": Linearity(((0,),), (2,)),
    "RMSNormalization": Linearity(((1,),)),
    "ScatterElements": Linearity(((0, 2),)),
    "ScatterND": Linearity(((0, 2),)),
    "Where": Linearity(((1, 2),)),
}
