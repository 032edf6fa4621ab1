"""The table of operators and the state of their derivatives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import onnx

from ..passes.contrib import EXPANSIONS
from ..passes.contrib.expansion import MICROSOFT, TRAINING
from ..passes.expand_newer_operators import PREVIEW
from ..passes.registry import Entry, Registry, Rule, Zero
from ..passes.resolve_gradients import ResolveGradients
from ..passes.rules import BUILTIN_RULES
from ..passes.tape import CANONICAL_OPSET

State = Literal["rule", "expanded", "zero", "non-differentiable", "no rule yet"]

OLDEST_OPSET = 7
STANDARD_DOMAINS = ("", "ai.onnx.ml", PREVIEW, TRAINING)
DOMAINS = (*STANDARD_DOMAINS, MICROSOFT)


@dataclass(frozen=True)
class OperatorState:
    """One operator.

    Attributes:
        opsets: the versions of its domain in which it can be read.
        state: "rule"; "expanded" into operators that have rules (a Gradient into what computes it); declared "zero" or
            "non-differentiable"; or unknown.
        note: the rule's first line, or the reason of the declaration.
        limits: the forms that are refused, empty if there are none.
    """

    operator: str
    domain: str
    opsets: str
    state: State
    note: str
    limits: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def operator_table(rules: Registry = BUILTIN_RULES) -> list[OperatorState]:
    """Every operator of ONNX's own domains, and every other one that is known, sorted by domain."""
    entries = {(domain, op_type): entry for domain, op_type, entry in rules}
    keys = {*_standard_operators(), *entries, *EXPANSIONS}
    keys = {(domain, op_type) for domain, op_type in keys if domain in DOMAINS or (domain, op_type) in entries}
    return [_row(domain, op_type, entries.get((domain, op_type))) for domain, op_type in sorted(keys)]


def as_markdown(rows: list[OperatorState]) -> str:
    """The table as a page of documentation."""
    counts = Counter(row.state for row in rows)
    lines = [
        "# Operators",
        "",
        "What is known of the derivative of each operator: `onnxgrad ops --markdown` writes this page.",
        "",
        "An operator that is *expanded* is written in others before differentiation; one that is declared *zero* stops",
        "the gradient; one that is *non-differentiable* is refused where a gradient would have to pass.",
        "",
        f"{len(rows)} operators: {', '.join(f'{count} {state}' for state, count in sorted(counts.items()))}.",
    ]
    for domain in dict.fromkeys(row.domain for row in rows):
        lines += [
            "",
            f"## {domain}",
            "",
            "| operator | opsets | state | what it says | refused forms |",
            "|---|---|---|---|---|",
        ]
        for row in rows:
            if row.domain == domain:
                cells = (row.operator, row.opsets, row.state, row.note, row.limits)
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def describe_entry(entry: Entry | None) -> tuple[State, str]:
    """The state that a registry entry stands for, and what it says."""
    if entry is None:
        return "no rule yet", ""
    if isinstance(entry, Rule):
        return "rule", entry.summary
    return "zero" if isinstance(entry, Zero) else "non-differentiable", entry.reason


def _row(domain: str, op_type: str, entry: Entry | None) -> OperatorState:
    state, note = describe_entry(entry)
    if (domain, op_type) in EXPANSIONS:
        state, note = "expanded", _first_line(EXPANSIONS[domain, op_type])
    elif (domain, op_type) == (TRAINING, "Gradient"):
        state, note = "expanded", _first_line(ResolveGradients)
    elif entry is None and _has_function_body(domain, op_type):
        state, note = "expanded", "By the function that the standard defines it by."
    limits = entry.limits if isinstance(entry, Rule) else ""
    return OperatorState(op_type, domain or "ai.onnx", _opsets(domain, op_type), state, note, limits)


def _first_line(documented: Any) -> str:
    return (documented.__doc__ or "").strip().partition("\n")[0]


def _standard_operators() -> Iterator[tuple[str, str]]:
    for schema in onnx.defs.get_all_schemas():
        if schema.domain in STANDARD_DOMAINS and not schema.deprecated:
            yield schema.domain, schema.name


def _has_function_body(domain: str, op_type: str) -> bool:
    if domain not in ("", PREVIEW) or not onnx.defs.has(op_type, domain):
        return False
    schema: Any = onnx.defs.get_schema(op_type, domain=domain)  # the stubs of onnx lack functions
    has_body = bool(schema.has_function or schema.has_context_dependent_function)
    return has_body and bool(domain == PREVIEW or schema.since_version > CANONICAL_OPSET)


def _opsets(domain: str, op_type: str) -> str:
    """The versions of the domain in which the operator can be read; onnx knows none of com.microsoft, which has one."""
    schemas = [schema for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == domain]
    versions = [schema.since_version for schema in schemas if schema.name == op_type]
    if not versions:
        return "1"
    newest = max(schema.since_version for schema in schemas)
    oldest = max(min(versions), OLDEST_OPSET if domain == "" else 1)
    return f"{oldest}–{newest}" if newest > oldest else str(newest)
