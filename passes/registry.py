"""The registry: what is known of each operator's derivative, as rules and as declarations.

Every operator is in one of three states. It has a *VJP rule*; or it is declared *zero*: its outputs do not change
under small changes of its inputs (or carry no floats), so the gradient stops there; or it is declared
*non-differentiable*: on the differentiated path it is refused, with the reason. An operator with none of these is
unknown, and is refused too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from .errors import UnsupportedError, describe
from .forms import Alternatives, ChooseForm, expected_form
from .gradient_marks import GRADIENT_SCALE, STOP_GRADIENT, is_marked
from .subgraphs import captured_values
from .tape import Tape, Tensor

Cotangent = Callable[[], Tensor | None] | None
"""What a rule returns for one input: how to compute its cotangent, or None where it is structurally zero."""


def already(tensor: Tensor | None) -> Cotangent:
    """The Cotangent of a rule that has computed it together with others; None where there is none."""
    return None if tensor is None else lambda: tensor


RuleFunction = Callable[..., Cotangent | Sequence[Cotangent]]


class Primal:
    """One forward node as its rule sees it: the input and output values, the attributes, and the tape.

    Attributes:
        inputs: one Tensor an input, None where an optional input is omitted.
        outputs: one Tensor an output.
        captured: the values of outer graphs that the node's subgraphs read. A rule returns their cotangents after
            those of the inputs.
        op: the tape on which the rule emits (`n.op.Exp(x)`).
        active: for each input, and after them for each captured value, whether its cotangent is wanted. The
            engine skips what is not; a rule may look at it to share work between inputs.
        rules: the registry in use, for a rule that differentiates a subgraph.
    """

    def __init__(self, node: ir.Node, op: Tape, active: Sequence[bool], rules: Registry) -> None:
        self.node = node
        self.op = op
        self.inputs = tuple(None if value is None else op.tensor(value) for value in node.inputs)
        self.outputs = tuple(op.tensor(value) for value in node.outputs)
        self.captured = tuple(op.tensor(value) for value in captured_values(node))
        self.active = tuple(active)
        self.rules = rules

    def input(self, index: int) -> Tensor | None:
        """The input at *index*, None if it is omitted, also at the end of the list."""
        return self.inputs[index] if index < len(self.inputs) else None

    def required(self, index: int) -> Tensor:
        """The input at *index*, which the operator's schema requires."""
        tensor = self.input(index)
        if tensor is None:
            raise UnsupportedError(f"Input {index} of {describe(self.node)} is missing; the model is not valid")
        return tensor

    def attr(self, name: str, default: Any = None) -> Any:
        """The value of attribute *name* (int, float, str, list, array), or *default*."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def axis(self, default: int, name: str = "axis") -> int:
        """The attribute *name* as a non-negative axis of the first input."""
        return int(self.attr(name, default)) % max(self.required(0).rank, 1)

    def axes(self, index: int = 1) -> list[int] | None:
        """The constant axes at input *index*, non-negative and sorted; None if they are omitted or computed."""
        tensor = self.input(index)
        if tensor is None or tensor.constant is None:
            return None
        return sorted(int(axis) % self.required(0).rank for axis in tensor.constant.reshape(-1))

    def extra_output(self, index: int, dtype: ir.DataType, shape: ir.Shape) -> Tensor:
        """The optional output at *index* of the forward node, which is made to compute it if it does not yet."""
        if index >= len(self.node.outputs):
            self.node.resize_outputs(index + 1)
        value = self.node.outputs[index]
        if not value.name:
            value.name = self.op.fresh_name(f"{self.node.outputs[0].name}:{index}")
        value.type, value.shape = ir.TensorType(dtype), shape
        return self.op.tensor(value)

    def fastest(self, alternatives: Alternatives) -> Tensor:
        """The cotangent of *alternatives* in the form that the registry in use chooses."""
        return alternatives.emit(self.rules.choose(alternatives))

    def refuse(self, why: str) -> UnsupportedError:
        """The error to raise when this node uses a form that the rule does not cover."""
        return UnsupportedError(f"{describe(self.node)} cannot be differentiated: {why}")


@dataclass(frozen=True)
class Rule:
    """A VJP rule.

    Attributes:
        function: called with the Primal and one cotangent an output (None where none arrives), returns one
            Cotangent an input (a single one for a one-input operator), and one a captured value after them.
        inputs: the indices of the inputs that can have a cotangent; None for every float input.
        broadcasts: the engine sums the cotangents back over broadcast axes.
        singular: it is elementwise, and its derivative is infinite or NaN somewhere. Where the cotangent is zero
            because a Where did not pick the element, the engine keeps it zero there.
        limits: forms of the operator that the rule refuses, empty if there are none.
    """

    function: RuleFunction
    inputs: tuple[int, ...] | None
    broadcasts: bool
    singular: bool = False
    limits: str = ""

    @property
    def summary(self) -> str:
        return (self.function.__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class Zero:
    """The gradient stops at this operator; *reason* says why that is right."""

    reason: str


@dataclass(frozen=True)
class NonDifferentiable:
    """This operator is refused on the differentiated path; *reason* says why."""

    reason: str


Entry = Rule | Zero | NonDifferentiable


def _of_mark(node: ir.Node) -> Entry:
    if STOP_GRADIENT in node.metadata_props:
        return Zero("it is marked to stop the gradient")
    if GRADIENT_SCALE in node.metadata_props:
        factor = float(node.metadata_props[GRADIENT_SCALE])
        return Rule(lambda n, dy: lambda: dy * factor, None, broadcasts=False)
    return Rule(lambda n, dy: lambda: dy, (0,), broadcasts=False)


class Registry:
    """Operators and what is known of their derivatives. A later entry replaces an earlier one of the same name.

    Attributes:
        choose: which form to take where a rule offers several; that of the last of *parents* if not given.

    Example:
        >>> rules = Registry(BUILTIN_RULES)
        >>> @rules.vjp("Cube", domain="com.example")
        ... def cube(n, dy):
        ...     (x,) = n.inputs
        ...     return lambda: dy * 3.0 * x * x
    """

    def __init__(self, *parents: Registry, choose: ChooseForm | None = None) -> None:
        self.choose: ChooseForm = choose or (parents[-1].choose if parents else expected_form)
        self._entries: dict[tuple[str, str], Entry] = {}
        for parent in parents:
            self._entries.update(parent._entries)

    def vjp(
        self,
        *op_types: str,
        domain: str = "",
        inputs: Sequence[int] | None = None,
        broadcasts: bool = False,
        singular: bool = False,
        limits: str = "",
    ) -> Callable[[RuleFunction], RuleFunction]:
        """Register the decorated function as the VJP rule of *op_types* (see `Rule`)."""

        def register(function: RuleFunction) -> RuleFunction:
            rule = Rule(function, None if inputs is None else tuple(inputs), broadcasts, singular, limits)
            for op_type in op_types:
                self._entries[domain, op_type] = rule
            return function

        return register

    def zero(self, *op_types: str, reason: str, domain: str = "") -> None:
        """Declare that the gradient stops at *op_types*."""
        for op_type in op_types:
            self._entries[domain, op_type] = Zero(reason)

    def nondifferentiable(self, *op_types: str, reason: str, domain: str = "") -> None:
        """Declare that *op_types* have no derivative, so that they are refused on the differentiated path."""
        for op_type in op_types:
            self._entries[domain, op_type] = NonDifferentiable(reason)

    def get(self, node: ir.Node) -> Entry | None:
        """The entry for the operator of *node*, or for the mark that it bears; None if it is unknown."""
        if is_marked(node):
            return _of_mark(node)
        return self._entries.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))

    def __iter__(self) -> Iterator[tuple[str, str, Entry]]:
        """All entries as (domain, op_type, entry), sorted."""
        for (domain, op_type), entry in sorted(self._entries.items(), key=lambda item: item[0]):
            yield domain, op_type, entry
