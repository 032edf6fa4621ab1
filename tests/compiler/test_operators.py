"""The table of operators."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxgrad.compiler.operators import as_markdown, operator_table
from onnxgrad.passes.registry import Registry

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


def test_it_has_every_operator_that_onnx_ships() -> None:
    shipped = {
        (schema.domain or "ai.onnx", schema.name) for schema in onnx.defs.get_all_schemas() if not schema.deprecated
    }
    assert {"Gradient", "Adam", "Adagrad", "Momentum"} <= {name for _, name in shipped}
    assert shipped <= {(row.domain, row.operator) for row in operator_table()}


def test_every_operator_is_known() -> None:
    unknown = [row.operator for row in operator_table() if row.state == "no rule yet"]
    assert not unknown, "give each a rule, or declare it with the reason (passes/rules/declarations.py)"


def test_every_row_says_something() -> None:
    assert not [row.operator for row in operator_table() if not row.note or not row.opsets]


@pytest.mark.parametrize("name", ["Upsample", "Scatter"])
def test_deprecated_operators_are_not_listed(name: str) -> None:
    assert name not in {row.operator for row in operator_table()}


def test_an_empty_registry_knows_none_but_what_is_expanded() -> None:
    states = {row.operator: row.state for row in operator_table(Registry())}
    assert set(states.values()) == {"no rule yet", "expanded"}
    assert states["SwiGLU"] == states["FastGelu"] == "expanded"


def test_the_page_is_that_of_the_registry() -> None:
    assert PAGE.read_text() == as_markdown(operator_table()), "run `onnxgrad ops --markdown > docs/operators.md`"
