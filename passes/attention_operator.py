"""Some of the queries of an Attention at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from .blocks import in_blocks
from .rules.sizes import count_up_to, size_of
from .tape import Tape, Tensor

_PAST_KEYS = 4
"""The first of the inputs with which an Attention attends to more or fewer keys than it is given."""
_POSITIONAL = ("is_causal", "left_window_size", "right_window_size")


def can_be_parted(node: ir.Node) -> bool:
    """Whether `attend_in_blocks` takes *node*: it has no past, no window, no scores as an output."""
    query, keys, *others = node.inputs
    if query is None or keys is None or query.shape is None or keys.shape is None:
        return False
    if any(others[_PAST_KEYS - 2 :]) or any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return False
    if any(node.attributes.get_int(name, -1) >= 0 for name in _POSITIONAL[1:]):
        return False
    mask = others[1] if len(others) > 1 else None
    if mask is None:
        return True
    if mask.shape is None or len(mask.shape) < 2 or mask.shape[-2] not in (1, query.shape[-2]):
        return False
    return not node.attributes.get_int("is_causal", 0) or mask.shape[-1] == keys.shape[-2]


def attend_in_blocks(op: Tape, node: ir.Node, block: int) -> Tensor:
    """The output of the Attention *node*, by an Attention for each *block* of queries, which share keys and values.

    Where it is causal, the positions of a block's queries make its mask.
    """
    query, keys, values, mask = (None if value is None else op.tensor(value) for value in (*node.inputs, None)[:4])
    assert query is not None
    assert keys is not None
    assert values is not None
    rows = [(query, -2)]
    has_mask_rows = mask is not None and mask.shape[-2] != 1
    if mask is not None and has_mask_rows:
        rows.append((mask, -2))
    positions = count_up_to(op, size_of(keys, keys.rank - 2)) if node.attributes.get_int("is_causal", 0) else None
    if positions is not None:
        rows.append((count_up_to(op, size_of(query, query.rank - 2)), -1))
    attributes: dict[str, Any] = {name: value for name, value in node.attributes.items() if name not in _POSITIONAL}

    def attend(body: Tape, parts: Sequence[Tensor]) -> Tensor:
        shown = parts[1] if has_mask_rows else None if mask is None else body.tensor(mask.value)
        if positions is not None:
            shown = _and(shown, body.tensor(positions.value) <= parts[-1].unsqueeze([1]))
        inputs = [parts[0], body.tensor(keys.value), body.tensor(values.value), shown]
        return body.emit("Attention", *inputs, **attributes)

    return in_blocks(op, block, rows, attend, -2)


def _and(mask: Tensor | None, allowed: Tensor) -> Tensor:
    """*mask*, boolean or added to the scores, restricted to what is *allowed*."""
    if mask is None:
        return allowed
    op = allowed.op
    if mask.dtype == ir.DataType.BOOL:
        return op.And(mask, allowed)
    return op.Where(allowed, mask, op.constant(float("-inf"), mask.dtype))
