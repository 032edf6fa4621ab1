"""Symbolic shape inference, of one node as it is emitted or of a whole model."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir
import sympy
from onnx_shape_inference import ShapeInferenceContext, infer_symbolic_shapes

from .classical_shapes import registry
from .einsum_equations import explicit_labels
from .errors import Error, InvalidModelError, describe
from .known_results import KnownResults, question_of
from .sequence_shapes import describe_lists
from .subgraphs import Iteration, all_graphs

_BROADCASTING = frozenset(
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual "
    "Max Mean Min Mod Mul Or Pow Sub Sum Where Xor".split()
)


class NodeInference:
    """Infers the outputs of single nodes of *graph*, whose ai.onnx operators are of *opset*."""

    def __init__(self, graph: ir.Graph, opset: int) -> None:
        registry.collect()
        self._opset = opset
        self._known = KnownResults()
        self._context = ShapeInferenceContext({"": opset})
        self._context.reserve_symbol_names(_symbols_in(graph))

    def infer(self, node: ir.Node) -> None:
        """Set the types and shapes of the outputs of *node*, as far as they follow from its inputs.

        Raises InvalidModelError when the inputs do not fit the operator.
        """
        question = question_of(node)
        if question is not None and self._known.recall(node, question):
            return
        function = registry.get(node.domain, node.op_type, version=self._opset)
        if function is None:
            return
        for value in node.inputs:
            if value is not None:
                self._context.name_anonymous_dims(value)
        try:
            function(self._context, node)
        except Exception as error:
            inputs = ", ".join(f"{v.name}: {v.dtype}{v.shape}" for v in node.inputs if v is not None)
            raise InvalidModelError(f"The inputs of {describe(node)} do not fit it ({inputs}): {error}") from error
        _correct(node)
        _without_ceilings(node)
        if question is not None:
            self._known.remember(node, question)


class InferShapes(ir.passes.InPlacePass):
    """Infer the shapes and types of all values, keeping the symbolic dims of the inputs by their names.

    Shapes that the file gives for inner values are inferred anew, since exporters name the same size differently
    from value to value; where inference tells less than the file does, the file's static sizes are kept.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        declared = [value.shape for value in model.graph.outputs]
        given = _forget_inferable_shapes(model, model.graph)
        try:
            _infer(model)
            while _free_changing_states(model):
                _forget_inferable_shapes(model, model.graph.all_nodes())
                for value, shape in zip(model.graph.outputs, declared, strict=True):
                    value.shape = shape
                _infer(model)
            if _recall(given) | describe_lists(model.graph.all_nodes()):
                _infer(model)
        except Error:
            raise
        except Exception as error:
            raise InvalidModelError(f"Shape inference failed: {error}") from error
        _reinfer_where_symbols_were_merged(model)
        for node in model.graph:
            _without_ceilings(node)
        return ir.passes.PassResult(model, modified=True)


def _infer(model: ir.Model) -> None:
    """Infer all shapes; again, as often as inference stumbles over ceilings that it wrote itself.

    Sizes that are known already stay as they are. It compares them with its own to find sizes that are equal, which
    is then left out.
    """
    find_equal_sizes = True
    while True:
        try:
            infer_symbolic_shapes(model, warn_on_missing=False, adopt_declared_symbols=find_equal_sizes)
            return
        except ValueError:
            rewritten = [_without_ceilings(node) for node in model.graph]
            if not any(rewritten) and not find_equal_sizes:
                raise
            find_equal_sizes = False


def _free_changing_states(model: ir.Model) -> bool:
    """Leave those sizes of a Loop's states open that an iteration changes; whether there were any.

    The inference library gives a state the shape of its initial value for all iterations.
    """
    freed = False
    for node in model.graph.all_nodes():
        if node.op_type != "Loop" or node.domain not in ("", "ai.onnx"):
            continue
        for state in Iteration.of(node).states:
            first, start, end = state.initial.shape, state.at_start.shape, state.at_end.shape
            if first is None or start is None or end is None or not len(first) == len(start) == len(end):
                continue
            changes = [a == b and b != c for a, b, c in zip(first, start, end, strict=True)]
            if any(changes):
                state.at_start.shape = ir.Shape(None if c else d for c, d in zip(changes, start, strict=True))
                freed = True
    return freed


def _forget_inferable_shapes(model: ir.Model, nodes: Iterable[ir.Node]) -> dict[ir.Value, ir.Shape]:
    """Clear the shapes of values of *nodes* that inference can give, and return them."""
    registry.collect()
    given = {}
    outputs = set(model.graph.outputs)
    for node in nodes:
        if registry.get(node.domain, node.op_type, version=model.opset_imports.get(node.domain, 1)) is None:
            continue
        for value in node.outputs:
            if value.shape is not None and value not in outputs:
                given[value] = value.shape
                value.shape = None
            value.const_value = None  # inference computes small shapes
    return given


def _recall(given: dict[ir.Value, ir.Shape]) -> bool:
    """Give values the static sizes of *given* where none is known; whether there was such a one."""
    recalled = False
    for value, shape in given.items():
        if value.shape is None:
            value.shape = shape
            recalled = True
        elif len(value.shape) == len(shape):
            dims = [
                old if isinstance(old, int) and not isinstance(new, int) else new
                for old, new in zip(shape, value.shape, strict=True)
            ]
            if dims != list(value.shape):
                value.shape = ir.Shape(dims)
                recalled = True
    return recalled


def _correct(node: ir.Node) -> bool:
    """Undo what the inference library supposes without reason or forgets; whether there was anything."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in ("Col2Im", "ConstantOfShape", "Expand", "Tile"):
        return _keep_rank(node)
    if node.op_type.startswith("Reduce"):
        return _keep_rank_of_reduction(node)
    if node.op_type == "If":
        return _forget_one_branch(node)
    if node.op_type == "Einsum":
        return _broadcast_labels(node)
    return _keep_slices_open(node) if node.op_type == "Slice" else _keep_symbols_apart(node)


def _keep_rank(node: ir.Node) -> bool:
    """Give the result the rank that follows from the ranks of the inputs, where the sizes are computed.

    The inference library then gives up the rank, too.
    """
    output, shapes = node.outputs[0], [None if value is None else value.shape for value in node.inputs]
    count = shapes[-1][0] if shapes[-1] is not None and len(shapes[-1]) == 1 else None
    if output.shape is not None or shapes[0] is None or not isinstance(count, int):
        return False
    ranks = {"Col2Im": count + 2, "ConstantOfShape": count}
    rank = ranks.get(node.op_type, max(count, len(shapes[0])))
    output.shape = ir.Shape([None] * rank)
    return True


def _keep_rank_of_reduction(node: ir.Node) -> bool:
    """Give a reduction over computed axes that stay, with size 1, the rank of its input."""
    source, output = node.inputs[0], node.outputs[0]
    stays = node.attributes.get_int("keepdims", 1) == 1
    if output.shape is not None or source is None or source.shape is None or not stays:
        return False
    output.shape = ir.Shape([None] * len(source.shape))
    return True


def _broadcast_labels(node: ir.Node) -> bool:
    """Let a size of 1 in the result of an Einsum be that of the other operands with the label.

    The inference library takes the size that the first operand has.
    """
    shapes, output = [value.shape for value in node.inputs if value is not None], node.outputs[0]
    known = [shape for shape in shapes if shape is not None]
    if output.shape is None or len(known) < len(node.inputs):
        return False
    terms, result = explicit_labels(node.attributes["equation"].as_string(), [len(shape) for shape in known])
    named = [pair for term, shape in zip(terms, known, strict=True) for pair in zip(term, shape, strict=True)]
    sizes = {label: size for label, size in reversed(named) if size != 1}
    dims = [sizes.get(label, 1) if size == 1 else size for label, size in zip(result, output.shape, strict=True)]
    changed = dims != list(output.shape)
    if changed:
        output.shape = ir.Shape(dims)
    return changed


def _forget_one_branch(node: ir.Node) -> bool:
    """Leave the shape of a result open which only one branch of an If knows.

    The inference library takes that branch's for both.
    """
    branches = [attribute.as_graph() for attribute in node.attributes.values()]
    changed = False
    for output, *inner in zip(node.outputs, *(branch.outputs for branch in branches), strict=True):
        if output.shape is not None and any(value.shape is None for value in inner):
            output.shape = None
            changed = True
    return changed


def _keep_slices_open(node: ir.Node) -> bool:
    """Name the size of a Slice up to a constant end by the symbolic size too, `Min(a, end)`.

    The inference library supposes that the axis reaches that end, as only slices of one element mostly do.
    """
    data, output = node.inputs[0], node.outputs[0]
    if data is None or data.shape is None or output.shape is None or len(data.shape) != len(output.shape):
        return False
    dims = list(output.shape)
    for axis, (size, taken) in enumerate(zip(data.shape, dims, strict=True)):
        if isinstance(size, ir.SymbolicDim) and isinstance(taken, int) and taken > 1:
            dims[axis] = _sliced_size(node, axis, size)
    changed = dims != list(output.shape)
    if changed:
        output.shape = ir.Shape(dims)
    return changed


def _sliced_size(node: ir.Node, axis: int, size: ir.SymbolicDim) -> ir.SymbolicDim:
    """The symbolic size of a Slice of an axis of *size* by a constant start, end and step, none negative."""
    tensors = [None if value is None else ir.convenience.get_const_tensor(value) for value in node.inputs[1:]]
    given = [None if tensor is None else tensor.numpy().tolist() for tensor in tensors]
    starts, ends, axes, steps = given + [None] * (4 - len(given))
    if starts is None or ends is None or size.value is None:
        return ir.SymbolicDim(None)
    rank = len(node.outputs[0].shape or ())
    index = axis if axes is None else [int(each) % rank for each in axes].index(axis)
    start, end, step = starts[index], ends[index], 1 if steps is None else steps[index]
    reached = sympy.Min(size._expr, end)
    taken = sympy.floor((reached - start + step - 1) / step)
    return ir.SymbolicDim(sympy.Max(0, taken))


def _keep_symbols_apart(node: ir.Node) -> bool:
    """Name a broadcast of two different symbolic sizes by both, `Max(a, b)`.

    The inference library takes the first for the result. Either may be 1 when the graph runs, and a gradient
    must then be summed over that axis.
    """
    if node.op_type not in _BROADCASTING:
        return False
    output = node.outputs[0]
    shapes = [value.shape for value in node.inputs if value is not None]
    if output.shape is None or any(shape is None for shape in shapes) or output.shape.is_static():
        return False
    dims = list(output.shape)
    for axis in range(1, len(dims) + 1):
        sizes = {shape[-axis] for shape in shapes if shape is not None and len(shape) >= axis} - {1}
        symbols = {size.value for size in sizes if isinstance(size, ir.SymbolicDim)}
        if len(symbols) < 2 or any(isinstance(size, int) for size in sizes) or None in symbols:
            continue
        dims[-axis] = ir.SymbolicDim(sympy.Max(*(ir.SymbolicDim(symbol)._expr for symbol in symbols)))
    changed = dims != list(output.shape)
    if changed:
        output.shape = ir.Shape(dims)
    return changed


def _without_ceilings(node: ir.Node) -> bool:
    """Write ⌈e⌉ as -⌊-e⌋ in symbolic sizes, since ceilings cannot be parsed again; whether there was any."""
    changed = False
    for value in node.outputs:
        if value.shape is None or not any("ceiling" in str(dim) for dim in value.shape if not isinstance(dim, int)):
            continue
        value.shape = ir.Shape(
            dim
            if isinstance(dim, int) or dim._expr is None
            else ir.SymbolicDim(str(dim._expr.replace(sympy.ceiling, lambda e: -sympy.floor(-e))))
            for dim in value.shape
        )
        changed = True
    return changed


def _reinfer_where_symbols_were_merged(model: ir.Model) -> None:
    inference = NodeInference(model.graph, model.opset_imports.get("", 1))
    changed: set[ir.Value] = set()
    for node in model.graph:
        if not changed.isdisjoint(value for value in node.inputs if value is not None):
            for output in node.outputs:
                output.shape = None
            inference.infer(node)
            changed.update(node.outputs)
        elif _correct(node):
            changed.update(node.outputs)


def _symbols_in(graph: ir.Graph) -> set[str]:
    values = [*graph.inputs, *(value for each in all_graphs(graph) for node in each for value in node.outputs)]
    return {
        dim.value
        for value in values
        if value.shape is not None
        for dim in value.shape
        if not isinstance(dim, int) and dim.value is not None
    }
