"""The table of operators."""

from __future__ import annotations

import onnx
import pytest

from onnxgrad.compiler.operators import operator_table
from onnxgrad.passes.registry import Registry
from onnxgrad.passes.tape import CANONICAL_OPSET


def names(rules: Registry) -> set[str]:
    return {row.operator for row in operator_table(rules) if row.domain == "ai.onnx"}


def test_it_has_every_operator_of_the_canonical_opset() -> None:
    expected = set()
    for name in {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}:
        try:
            schema = onnx.defs.get_schema(name, CANONICAL_OPSET, "")
        except onnx.defs.SchemaError:
            continue
        if not schema.deprecated:
            expected.add(name)
    assert names(Registry()) == expected


@pytest.mark.parametrize("name", ["QuantizeLinear", "Cast"])
def test_operators_that_a_later_opset_changes_are_there(name: str) -> None:
    assert name in names(Registry())


@pytest.mark.parametrize("name", ["Upsample", "Scatter", "CausalConvWithState"])
def test_operators_that_it_has_no_longer_or_not_yet_are_not(name: str) -> None:
    assert name not in names(Registry())


def test_an_unknown_operator_has_no_rule_yet() -> None:
    assert {row.state for row in operator_table(Registry())} == {"no rule yet"}
