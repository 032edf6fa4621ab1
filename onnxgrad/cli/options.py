"""Parsing of options."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ..compiler.losses import Loss


def beside(model: Path, suffix: str) -> Path:
    """The path of *model* with another *suffix*, where results go by default."""
    return model.with_suffix(suffix) if model.name else model


def parse_sizes(options: Sequence[str], flag: str) -> dict[str, int]:
    """`batch=32` as {"batch": 32}."""
    sizes = {}
    for name, text in _pairs(options, flag):
        if not text.isdecimal():
            raise typer.BadParameter(f"{name}={text}: the size is a whole number", param_hint=flag)
        sizes[name] = int(text)
    return sizes


def parse_factors(options: Sequence[str], flag: str) -> dict[str, float]:
    """`h=-1` as {"h": -1.0}."""
    factors = {}
    for name, text in _pairs(options, flag):
        try:
            factors[name] = float(text)
        except ValueError:
            raise typer.BadParameter(f"{name}={text}: the factor is a number", param_hint=flag) from None
    return factors


def parse_values(options: Sequence[str], flag: str) -> dict[str, object]:
    """`label_smoothing=0.1` as {"label_smoothing": 0.1}; a value that is no Python literal is a string."""
    values: dict[str, object] = {}
    for name, text in _pairs(options, flag):
        try:
            values[name] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            values[name] = text
    return values


def parse_bytes(text: str, flag: str) -> int:
    """`4GB`, `500 MB`, `1.5GiB` or a number of bytes."""
    matched = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    if matched is None:
        raise typer.BadParameter(f"{text!r} is no amount of memory; write 4GB, 500MB or 1.5GiB", param_hint=flag)
    number, prefix, binary = matched.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " "))


def parse_checkpoint(options: Sequence[str]) -> str | int | list[str] | None:
    """`auto`, a number, or names."""
    if not options:
        return None
    if len(options) == 1 and options[0].isdecimal():
        return int(options[0])
    return options[0] if len(options) == 1 else list(options)


def as_wrt(options: Sequence[str] | None, default: str) -> str | list[str]:
    """What --wrt was given, once or several times, or the *default*."""
    if not options:
        return default
    return options[0] if len(options) == 1 else list(options)


def parse_loss(loss: str | None, options: dict[str, object]) -> str | Loss | None:
    """The loss of a name with its *options*; a path to a model as it is."""
    if not options:
        return loss
    from ..compiler.losses import resolve_loss
    from ..passes.errors import InputError

    if loss is None:
        raise InputError("--loss-option needs --loss")
    return resolve_loss(loss, **options)


def _pairs(options: Sequence[str], flag: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for option in options:
        name, equals, text = option.partition("=")
        if not (name and equals and text):
            raise typer.BadParameter(f"{option!r} is not NAME=VALUE", param_hint=flag)
        if name in (other for other, _ in pairs):
            raise typer.BadParameter(f"{name} is given twice", param_hint=flag)
        pairs.append((name, text))
    return pairs
