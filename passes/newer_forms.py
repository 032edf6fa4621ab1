"""How operators that changed after the canonical opset are written in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .node_editor import NodeEditor


def _floored_modulo(edit: NodeEditor) -> None:
    """Since opset 28 Mod takes floats without `fmod` too, and then has the sign of the divisor, as in Python.

    Where the remainder of the truncated division has the other sign, one divisor is added.
    """
    dividend, divisor = edit.required(0), edit.required(1)
    if edit.attribute("fmod", 0) or dividend.dtype is None or not dividend.dtype.is_floating_point():
        return
    zero = edit.number(0, "zero")
    remainder = edit.emit("Mod", [dividend, divisor], "remainder", fmod=1)
    differ = edit.emit(
        "Xor",
        [edit.emit("Less", [remainder, zero], "negative"), edit.emit("Less", [divisor, zero], "divisor_negative")],
        "signs_differ",
    )
    some = edit.emit("Not", [edit.emit("Equal", [remainder, zero], "none")], "some")
    corrected = edit.emit("And", [differ, some], "corrected")
    edit.take("fmod")
    edit.node.op_type = "Where"
    edit.set_input(0, corrected)
    edit.set_input(1, edit.emit("Add", [remainder, divisor], "sum"))
    edit.set_input(2, remainder)


NEWER_FORMS: Mapping[str, Callable[[NodeEditor], None]] = {"Mod": _floored_modulo}
"""By the operator, what brings a node into its canonical form (ONNX spec, "Operators Changelog")."""
