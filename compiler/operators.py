"""The table of operators and the state of their derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx

from ..passes.registry import Entry, Registry, Rule, Zero
from ..passes.rules import BUILTIN_RULES
from ..passes.tape import CANONICAL_OPSET

State = Literal["rule", "zero", "non-differentiable", "no rule yet"]


@dataclass(frozen=True)
class OperatorState:
    """One operator: its rule's first line, the reason of its declaration, or that nothing is known of it yet."""

    operator: str
    domain: str
    state: State
    note: str


def operator_table(rules: Registry = BUILTIN_RULES) -> list[OperatorState]:
    """Every ai.onnx operator of the canonical opset and every other operator that *rules* knows, sorted."""
    rows = {("", name): OperatorState(name, "ai.onnx", *describe_entry(None)) for name in _standard_operators()}
    for domain, op_type, entry in rules:
        rows[domain, op_type] = OperatorState(op_type, domain or "ai.onnx", *describe_entry(entry))
    return [rows[key] for key in sorted(rows)]


def describe_entry(entry: Entry | None) -> tuple[State, str]:
    """The state that a registry entry stands for, and what it says."""
    if entry is None:
        return "no rule yet", ""
    if isinstance(entry, Rule):
        return "rule", entry.summary
    return "zero" if isinstance(entry, Zero) else "non-differentiable", entry.reason


def _standard_operators() -> list[str]:
    """The ai.onnx operators of the canonical opset, also those that a later one changes."""
    schemas = [schema for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""]
    schemas.sort(key=lambda schema: schema.since_version)
    newest = {schema.name: schema for schema in schemas if schema.since_version <= CANONICAL_OPSET}
    return [name for name, schema in newest.items() if not schema.deprecated]
