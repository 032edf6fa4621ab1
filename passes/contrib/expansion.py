"""What the expansion of one operator into standard ones sees, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from ..registry import Primal, Registry
from ..tape import Tape, Tensor

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

TRAINING = "ai.onnx.preview.training"
"""The domain of the standard's operators for training."""


class Fused(Primal):
    """A node that stands for several, with the tape that takes these."""

    def __init__(self, node: ir.Node, op: Tape) -> None:
        super().__init__(node, op, (), Registry())

    def gives(self, index: int) -> bool:
        """Whether anything reads the output at *index*."""
        if index >= len(self.node.outputs):
            return False
        value = self.node.outputs[index]
        return bool(value.uses()) or value.is_graph_output()


Expansion = Callable[[Fused], Tensor | Sequence[Tensor | None] | None]
"""Emits the nodes and gives the outputs' tensors (the one, or a sequence with None for what nothing reads).

None, with nothing emitted, where the node has a form that is not covered.
"""


def of_microsoft(expansions: Mapping[str, Expansion]) -> dict[tuple[str, str], Expansion]:
    """The table of a family, by domain and operator."""
    return {(MICROSOFT, op_type): expansion for op_type, expansion in expansions.items()}
