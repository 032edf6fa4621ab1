"""Which initializers are parameters, and what `wrt` and `outputs` mean."""

from __future__ import annotations

import difflib
import fnmatch
import itertools
import re
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from ..passes.activity import is_float
from ..passes.errors import InputError
from ..passes.registry import Registry, Rule
from ..passes.subgraphs import all_graphs
from ..passes.tape import CONSTANT

_MODULE_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
_STATISTICS = {
    "BatchNormalization": (3, 4),
    "DequantizeLinear": (1,),
    "FakeQuantize": (1,),
    "QuantizeLinear": (1,),
}
_WEIGHT_INPUTS = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gather": (0,),
    "Gemm": (0, 1, 2),
    "GRU": (1, 2, 3),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3, 7),
    "LayerNormalization": (1, 2),
    "PRelu": (1,),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3),
}
_OF_FREQUENCIES = ("Cos", "Sin")
_MASKED = -1e4


def find_parameters(graph: ir.Graph, rules: Registry) -> list[ir.Value]:
    """The float initializers that act as weights, in the order of the graph's initializers.

    Left out are: one-element constants (epsilons, scale factors) unless they are named like a module's
    parameter (`head.logit_scale`); running statistics of normalizations; scales of quantized values; inputs that
    carry no gradient (the scales of a Resize); masks; zeros that an exporter computed; tables that only meet indices
    or other constants (rotary frequencies), and pairs of tables of cosines and sines.
    """
    signals = _signals(graph)
    candidates = [value for value in graph.initializers.values() if _is_parameter(value, signals, rules)]
    tables = _cosines_and_sines(candidates)
    return [value for value in candidates if value not in tables]


def select_wrt(
    graph: ir.Graph, wrt: str | Sequence[str], parameters: Sequence[ir.Value]
) -> tuple[list[ir.Value], set[ir.Value]]:
    """Resolve `wrt`: "parameters", "inputs", or names and glob patterns.

    A pattern is matched against the parameters and the float graph inputs, and if it matches none of these,
    against all float initializers. A name may also be that of any other float value of the graph.

    Returns:
        the values, each once, and those of them that were named one by one.

    Raises InputError for a name or pattern that matches nothing, with the nearest names.
    """
    inputs = [value for value in graph.inputs if is_float(value)]
    if wrt == "parameters":
        if not parameters:
            raise InputError(
                "No initializer of the model acts as a weight; name what to differentiate with respect to in `wrt`"
            )
        return list(parameters), set()
    if wrt == "inputs":
        if not inputs:
            raise InputError("The model has no float input; name an intermediate value in `wrt` (an embedding, say)")
        return inputs, set()
    if wrt is None:
        raise InputError("`wrt` names nothing")
    values = _values_by_name(graph)
    floats = [value for value in graph.initializers.values() if is_float(value)]
    chosen: dict[ir.Value, None] = {}
    named: set[ir.Value] = set()
    for pattern in [wrt] if isinstance(wrt, str) else wrt:
        if pattern in values:
            matches = [values[pattern]]
            named.update(matches)
        else:
            matches = _matching(pattern, [*parameters, *inputs]) or _matching(pattern, floats)
        if not matches:
            raise InputError(_nothing_matches("wrt", pattern, values))
        chosen.update(dict.fromkeys(matches))
    if not chosen:
        raise InputError("`wrt` names nothing")
    return list(chosen), named


def select_outputs(graph: ir.Graph, outputs: Sequence[str] | str | None) -> list[ir.Value]:
    """Resolve `outputs`: names of graph outputs or intermediate values; all float outputs if None.

    Raises InputError for a name that does not exist, with the nearest names, and where there is none.
    """
    if outputs is None:
        chosen = [value for value in graph.outputs if is_float(value)]
        if not chosen:
            raise InputError("The model has no float output to differentiate; name an intermediate value in `outputs`")
        return chosen
    values = _values_by_name(graph)
    names = dict.fromkeys([outputs] if isinstance(outputs, str) else outputs)
    for name in names:
        if name not in values:
            raise InputError(_nothing_matches("outputs", name, values))
    if not names:
        raise InputError("`outputs` names nothing")
    return [values[name] for name in names]


def select_prediction(selected: Sequence[ir.Value], outputs: Sequence[str] | str | None) -> ir.Value:
    """The one of *selected* that a loss takes. Raises InputError if `outputs` names several."""
    if outputs is not None and len(selected) > 1:
        raise InputError(f"A loss takes one output, but `outputs` names {len(selected)}")
    return selected[0]


def without_frozen(selected: Sequence[ir.Value], frozen: Sequence[str]) -> list[ir.Value]:
    """*selected* without those that a name or pattern of *frozen* matches. Raises InputError where one matches none."""
    for pattern in frozen:
        if not _matching(pattern, selected):
            raise InputError(f"`frozen`: no member of `wrt` matches {pattern!r}{nearest(pattern, _names(selected))}")
    kept = [value for value in selected if not any(_matching(pattern, [value]) for pattern in frozen)]
    if not kept:
        raise InputError("`frozen` matches every member of `wrt`; nothing is left to differentiate with respect to")
    return kept


def select_retained(graph: ir.Graph, names: Sequence[str], selected: Sequence[ir.Value]) -> list[ir.Value]:
    """The values of `retain_grad` that are not *selected* anyway. Raises InputError for a name that does not exist."""
    values = _values_by_name(graph)
    for name in names:
        if name not in values:
            raise InputError(_nothing_matches("retain_grad", name, values))
    return [values[name] for name in dict.fromkeys(names) if values[name] not in selected]


def as_names(names: bool | str | Sequence[str] | None) -> Sequence[str]:
    """The names in a `wrt` or `outputs`, which is one of them, several, a keyword, a flag or None.

    Raises InputError for anything else.
    """
    if names is None or isinstance(names, bool) or (isinstance(names, str) and names in ("parameters", "inputs")):
        return ()
    if isinstance(names, str):
        return [names]
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise InputError(f"Values are named by a string, or by several; {names!r} is neither")
    return list(names)


def nearest(name: str, candidates: Iterable[str]) -> str:
    """A phrase that offers the names nearest to *name*, for an error message; empty if none is near."""
    close = difflib.get_close_matches(name, list(candidates), n=3, cutoff=0.5)
    return f"; nearest: {', '.join(close)}" if close else ""


def _nothing_matches(argument: str, name: str, values: dict[str, ir.Value]) -> str:
    names = sorted(values)
    near = nearest(name, names) or f"; the model has, for instance, {', '.join(names[:5])}"
    return f"`{argument}`: nothing in the model matches {name!r}{near}"


def _matching(pattern: str, values: Iterable[ir.Value]) -> list[ir.Value]:
    return [value for value in values if fnmatch.fnmatchcase(value.name or "", pattern)]


def _names(values: Iterable[ir.Value]) -> list[str]:
    return [str(value.name) for value in values]


def _values_by_name(graph: ir.Graph) -> dict[str, ir.Value]:
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    return {value.name: value for value in values if value.name}


def _signals(graph: ir.Graph) -> set[ir.Value]:
    """Values that carry the data: float graph inputs, table look-ups by an index, and all that depends on them."""
    signals = {value for value in graph.inputs if is_float(value)}
    for node in graph:
        looked_up = node.op_type == "Gather" and node.inputs[0] is not None and _is_weight_table(node.inputs[0])
        subgraph = any(attr.type == ir.AttributeType.GRAPH for attr in node.attributes.data.values())
        if looked_up or subgraph or not signals.isdisjoint(node.inputs):
            signals.update([value for value in node.outputs if is_float(value)])
    _, *subgraphs = all_graphs(graph)
    for inner in subgraphs:
        signals.update(value for value in inner.inputs if is_float(value))
        signals.update(value for node in inner for value in node.outputs if is_float(value))
    return signals


def _is_weight_table(value: ir.Value) -> bool:
    return value.is_initializer() and is_float(value) and value.shape is not None and len(value.shape) >= 2


def _is_parameter(value: ir.Value, signals: set[ir.Value], rules: Registry) -> bool:
    if not is_float(value) or value.const_value is None or str(value.name).startswith(CONSTANT):
        return False
    if value.const_value.size <= 1 and not _MODULE_PATH.fullmatch(value.name or ""):
        return False
    if not any(_acts_as_weight(node, index, value, signals, rules) for node, index in value.uses()):
        return False
    return not _is_mask(value)


def _acts_as_weight(node: ir.Node, index: int, value: ir.Value, signals: set[ir.Value], rules: Registry) -> bool:
    entry = rules.get(node)
    if isinstance(entry, Rule) and entry.inputs is not None and index not in entry.inputs:
        return False
    if index in _STATISTICS.get(node.op_type, ()):
        return False
    if index in _WEIGHT_INPUTS.get(node.op_type, ()):
        return node.op_type != "Gather" or _is_weight_table(value) or node.outputs[0] in signals
    if any(other in signals for other in node.inputs if other is not value):
        return True
    if node.op_type in _OF_FREQUENCIES:
        return False
    # A weight that is first reshaped, transposed, expanded, or scaled by constants, and then meets the data.
    return any(
        _acts_as_weight(consumer, position, output, signals, rules)
        for output in node.outputs
        if is_float(output) and output not in signals
        for consumer, position in output.uses()
    )


def _is_mask(value: ir.Value) -> bool:
    """Whether the values are those of a mask: two of them, 0 and a very negative one, or 0 and 1 in a square.

    Zeros alone count too, unless they are named like a module's parameter (a bias that is yet untrained).
    """
    if not _only_elementwise(value):
        return False
    array = _array(value)
    first = array.reshape(-1)[: 1 << 16]
    if first.all():  # the quick answer for nearly every weight
        return False
    distinct = np.unique(first).astype(np.float64)
    if len(distinct) > 2:
        return False
    if len(distinct) == 1:
        return _is_computed(value)
    if distinct.min() < _MASKED:
        return True
    square = array.ndim >= 2 and array.shape[-1] == array.shape[-2]
    return square and distinct.max() == 1.0


def _cosines_and_sines(candidates: Sequence[ir.Value]) -> set[ir.Value]:
    """Tables that an exporter folded from rotary embeddings: two of one shape, whose squares add up to 1."""
    squares = {}
    for value in candidates:
        if _rank(value) >= 2 and _is_computed(value) and _only_elementwise(value):
            array = np.square(_array(value).astype(np.float64))
            # Constant tables are the scales and biases, 1 and 0, of an untrained normalization.
            if array.max() <= 1.01 and array.min() < array.max():
                squares[value] = array
    tables: set[ir.Value] = set()
    for one, other in itertools.combinations(squares, 2):
        if one.shape == other.shape and np.allclose(squares[one] + squares[other], 1.0, atol=1e-2):
            tables |= {one, other}
    return tables


def _rank(value: ir.Value) -> int:
    return 0 if value.shape is None else len(value.shape)


def _is_computed(value: ir.Value) -> bool:
    """Whether the name is one that exporters give to results of their own folding (`unsqueeze_14`, `val_3`)."""
    name = value.name or ""
    return not _MODULE_PATH.fullmatch(name) and "::" not in name


def _only_elementwise(value: ir.Value) -> bool:
    return not any(
        index in _WEIGHT_INPUTS.get(node.op_type, ()) or node.op_type == "MatMul" for node, index in value.uses()
    )


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy())
