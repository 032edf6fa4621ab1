"""What is known while compiling is computed while compiling: shapes, sizes, and the arithmetic on them."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from .subgraphs import all_graphs
from .substitution import substitute
from .tape import Tape

LARGEST_FOLDED_FLOATS = 4096
"""The most elements of a folded float tensor; larger ones would only swell the file."""
LARGEST_FOLDED_INTEGERS = 65536
"""The most elements of a folded integer or bool tensor."""

_FOLDED = frozenset(
    "Abs Add And ArgMax ArgMin BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Clip Compress "
    "Concat ConstantOfShape Cos CumSum Div Equal Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND "
    "Greater GreaterOrEqual Identity Less LessOrEqual Log Max Mean Min Mod Mul Neg NonZero Not OneHot Or Pad Pow "
    "Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Round ScatterElements "
    "ScatterND Shape Sign Sin Size Slice Split Sqrt Squeeze Sub Sum Tile TopK Transpose Trilu Unique Unsqueeze "
    "Where Xor".split()
)
"""What shapes, indices, masks and position tables are computed with: deterministic, and quick on small inputs."""

_NO_LARGER_THAN_INPUT = frozenset("Compress NonZero Unique".split())
"""Operators whose output size depends on the data, but is bounded by the size (and rank) of the input."""

_TARGET_SHAPE_INPUT = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1}


class FoldConstants(ir.passes.InPlacePass):
    """Replace what follows from static shapes and constants by initializers.

    - Shape and Size of a value whose sizes are known, and integer tensors whose contents shape inference tracked.
    - The operators that shapes, indices and masks are made with, on constants: integers, bools, one-element
      floats, and what was folded from these. A float tensor of more elements is a weight and is never folded,
      nor is anything made from it.
    - The target of a Reshape, Expand or ConstantOfShape whose result has a known shape. A Reshape may leave one
      size open, which becomes -1.

    Args:
        protected: names of values that must stay values of the graph: parameters, and what the user names.

    Requires: LiftConstants and InferShapes have run; the opset is the canonical one.
    Guarantees: nodes that give graph outputs stay. A node is evaluated only when the size of its result is known
    to be small, so a size that a file merely declares is never allocated.
    Raises InvalidModelError when the inputs of a node do not fit it.
    """

    def __init__(self, protected: Collection[str] = ()) -> None:
        self._protected = frozenset(protected)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        folding = _Folding(model, self._protected)
        modified = False
        for graph in list(all_graphs(model.graph)):
            for node in list(graph):
                modified |= folding.visit(node)
        return ir.passes.PassResult(model, modified)


class _Folding:
    def __init__(self, model: ir.Model, protected: frozenset[str]) -> None:
        self.opset = model.opset_imports[""]
        self.protected = protected
        self.tape = Tape(model.graph, opset=self.opset)
        self.folded: set[ir.Value] = set()
        self.refined: set[ir.Value] = set()
        """Values of which more is known than before the pass, so that their readers are inferred again."""

    def visit(self, node: ir.Node) -> bool:
        if not self.refined.isdisjoint(value for value in node.inputs if value is not None):
            self.infer_again(node)
        if node.domain != "" or node.op_type not in _FOLDED:
            return False
        if any(output.is_graph_output() or output.name in self.protected for output in node.outputs):
            return self.fix_target_shape(node)
        results = known_contents(node)
        if results is None:
            results = self.evaluate(node)
        if results is None:
            return self.fix_target_shape(node)
        for output, array in zip(list(node.outputs), results, strict=True):
            self.replace(node, output, array)
        return True

    def infer_again(self, node: ir.Node) -> None:
        before = [output.shape for output in node.outputs]
        self.tape.inference.infer(node)
        self.refined.update(output for output, shape in zip(node.outputs, before, strict=True) if output.shape != shape)

    def evaluate(self, node: ir.Node) -> list[np.ndarray] | None:
        """The outputs of *node* if its inputs are constants and its outputs are known to be small."""
        if not node.inputs or any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
            return None
        arrays: dict[str, np.ndarray] = {}
        for value in node.inputs:
            if value is None:
                continue
            array = self.constant(value)
            if array is None:
                return None
            arrays[str(value.name)] = array
        self.tape.inference.infer(node)
        if not all(_is_small(output, node) for output in node.outputs):
            return None
        return evaluate(node, arrays, self.opset)

    def constant(self, value: ir.Value) -> np.ndarray | None:
        """The array of *value* if it is a constant that may be folded."""
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or value.name in self.protected:
            return None
        if tensor.dtype.is_floating_point():
            may_be_weight = tensor.size > 1 and value not in self.folded
            return None if may_be_weight else tensor.numpy()
        if not tensor.dtype.is_integer() and tensor.dtype != ir.DataType.BOOL:
            return None
        return tensor.numpy() if tensor.size <= LARGEST_FOLDED_INTEGERS else None

    def replace(self, node: ir.Node, output: ir.Value, array: np.ndarray) -> None:
        assert node.graph is not None
        assert output.dtype is not None
        initializer = ir.Value(
            name=output.name,
            type=ir.TensorType(output.dtype),
            shape=ir.Shape(array.shape),
            const_value=ir.tensor(array, dtype=output.dtype, name=output.name),
            metadata_props={**node.metadata_props, **output.metadata_props},
        )
        if output.uses():
            node.graph.register_initializer(initializer)
            substitute(output, initializer)
        self.folded.add(initializer)
        self.refined.add(initializer)

    def fix_target_shape(self, node: ir.Node) -> bool:
        """Make the target of a Reshape, Expand or ConstantOfShape a constant if the result's shape is known."""
        index, result = _TARGET_SHAPE_INPUT.get(node.op_type), node.outputs[0].shape
        if index is None or result is None or 0 in result:
            return False
        target = node.inputs[index]
        if target is None or target.is_initializer():
            return False
        sizes = [dim if isinstance(dim, int) else -1 for dim in result]
        if sizes.count(-1) > (node.op_type == "Reshape"):
            return False
        node.replace_input_with(index, self.tape.ints(sizes).value)
        return True


def known_contents(node: ir.Node) -> list[np.ndarray] | None:
    """The output of *node* where it follows from static shapes alone."""
    (output, *others) = node.outputs
    source = node.inputs[0] if node.inputs else None
    if node.op_type == "Shape" and source is not None and source.shape is not None:
        start, end = (node.attributes.get(name) for name in ("start", "end"))
        sizes = list(source.shape)[start.as_int() if start else 0 : end.as_int() if end else None]
        known = [size for size in sizes if isinstance(size, int)]
        return [np.array(known, dtype=np.int64)] if len(known) == len(sizes) else None
    if node.op_type == "Size" and source is not None and source.shape is not None:
        sizes = list(source.shape)
        known = [size for size in sizes if isinstance(size, int)]
        return [np.array(math.prod(known), dtype=np.int64)] if len(known) == len(sizes) else None
    tracked = output.const_value
    if others or tracked is None or output.dtype is None or not output.dtype.is_integer():
        return None
    return [tracked.numpy().astype(output.dtype.numpy())]


def evaluate(node: ir.Node, arrays: dict[str, np.ndarray], opset: int) -> list[np.ndarray] | None:
    """Run *node* alone in ONNX's reference evaluator; None where it cannot or what it gives does not fit."""
    proto = ir.to_proto(node)
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in arrays.items()
    ]
    outputs = [onnx.ValueInfoProto(name=output.name or "") for output in node.outputs]
    graph = onnx.helper.make_graph([proto], "fold", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            results = [np.asarray(result) for result in ReferenceEvaluator(model).run(None, arrays)]
    except Exception:  # an operator or a form of it that the evaluator lacks: the node is then left as it is
        return None
    fits = all(
        output.dtype is not None and result.dtype == output.dtype.numpy()
        for output, result in zip(node.outputs, results, strict=True)
    )
    return results if fits else None


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _is_small(output: ir.Value, node: ir.Node) -> bool:
    if output.dtype is None or not isinstance(output.type, ir.TensorType):
        return False
    if node.op_type in _NO_LARGER_THAN_INPUT:
        return True
    sizes = [size for size in output.shape if isinstance(size, int)] if output.shape is not None else None
    if sizes is None or output.shape is None or len(sizes) < len(output.shape):
        return False
    limit = LARGEST_FOLDED_FLOATS if output.dtype.is_floating_point() else LARGEST_FOLDED_INTEGERS
    return math.prod(sizes) <= limit
