"""Parsing of NAME=VALUE options."""

from __future__ import annotations

import ast
from collections.abc import Sequence

import typer


def parse_sizes(options: Sequence[str], flag: str) -> dict[str, int]:
    """`batch=32` as {"batch": 32}."""
    sizes = {}
    for name, text in _pairs(options, flag):
        if not text.isdecimal():
            raise typer.BadParameter(f"{name}={text}: the size is a whole number", param_hint=flag)
        sizes[name] = int(text)
    return sizes


def parse_values(options: Sequence[str], flag: str) -> dict[str, object]:
    """`label_smoothing=0.1` as {"label_smoothing": 0.1}; a value that is no Python literal is a string."""
    values: dict[str, object] = {}
    for name, text in _pairs(options, flag):
        try:
            values[name] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            values[name] = text
    return values


def _pairs(options: Sequence[str], flag: str) -> list[tuple[str, str]]:
    pairs = []
    for option in options:
        name, equals, text = option.partition("=")
        if not (name and equals and text):
            raise typer.BadParameter(f"{option!r} is not NAME=VALUE", param_hint=flag)
        pairs.append((name, text))
    return pairs
