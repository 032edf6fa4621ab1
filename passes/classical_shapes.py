"""Shape inference of the operators of ai.onnx.ml, of which the inference library knows few."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
from onnx_shape_inference import ShapeInferenceContext

from .sequence_shapes import registry

__all__ = ["registry"]

_Size = int | ir.SymbolicDim | None
_Outputs = Callable[[ir.Node, ir.Shape], Sequence[tuple[ir.DataType | None, Sequence[_Size]]]]


def _rows(shape: ir.Shape) -> _Size:
    """A vector is one row."""
    return shape[0] if len(shape) > 1 else 1


def _same(node: ir.Node, shape: ir.Shape) -> Sequence[tuple[ir.DataType | None, Sequence[_Size]]]:
    source = node.inputs[0]
    return [(None if source is None else source.dtype, [*shape])]


def _same_in_float(_: ir.Node, shape: ir.Shape) -> Sequence[tuple[ir.DataType | None, Sequence[_Size]]]:
    return [(ir.DataType.FLOAT, [*shape])]


def _regression(targets: str | None) -> _Outputs:
    """One score a row, or as many as the attribute *targets* says."""

    def outputs(node: ir.Node, shape: ir.Shape) -> Sequence[tuple[ir.DataType | None, Sequence[_Size]]]:
        count = 1 if targets is None else node.attributes.get_int(targets, 1)
        return [(ir.DataType.FLOAT, [_rows(shape), count])]

    return outputs


def _classification(node: ir.Node, shape: ir.Shape) -> Sequence[tuple[ir.DataType | None, Sequence[_Size]]]:
    """The labels, and a score for each of them; but the scores of pairs of classes for a support vector machine."""
    strings = [name for name in ("classlabels_strings",) if name in node.attributes]
    labels = node.attributes[strings[0]].as_strings() if strings else node.attributes.get_ints("classlabels_ints", ())
    if not strings and not labels:
        labels = node.attributes.get_ints("classlabels_int64s", ())
    in_pairs = node.op_type == "SVMClassifier" and "prob_a" not in node.attributes
    return [
        (ir.DataType.STRING if strings else ir.DataType.INT64, [_rows(shape)]),
        (ir.DataType.FLOAT, [_rows(shape), None if in_pairs or not labels else len(labels)]),
    ]


def _concatenation(node: ir.Node, shape: ir.Shape) -> Sequence[tuple[ir.DataType | None, Sequence[_Size]]]:
    return [(ir.DataType.FLOAT, [_rows(shape), sum(node.attributes.get_ints("inputdimensions", ()))])]


def _extraction(node: ir.Node, shape: ir.Shape) -> Sequence[tuple[ir.DataType | None, Sequence[_Size]]]:
    data, positions = node.inputs[:2]
    count = None if positions is None or positions.shape is None else positions.shape[-1]
    leading = [*shape[:-1]] if len(shape) > 1 else [1]
    return [(None if data is None else data.dtype, [*leading, count])]


_OUTPUTS: dict[str, _Outputs] = {
    "ArrayFeatureExtractor": _extraction,
    "FeatureVectorizer": _concatenation,
    "Imputer": _same,
    "LinearClassifier": _classification,
    "LinearRegressor": _regression("targets"),
    "Normalizer": _same_in_float,
    "SVMClassifier": _classification,
    "SVMRegressor": _regression(None),
    "Scaler": _same_in_float,
    "TreeEnsembleClassifier": _classification,
    "TreeEnsembleRegressor": _regression("n_targets"),
}


def _register(op_type: str, outputs: _Outputs) -> None:
    @registry.register("ai.onnx.ml", op_type, since_version=1)
    def infer(context: ShapeInferenceContext, node: ir.Node) -> None:
        source = node.inputs[0]
        if source is not None and source.shape is not None:
            for value, (dtype, shape) in zip(node.outputs, outputs(node, source.shape), strict=False):
                context.set_shape_and_dtype(value, ir.Shape(shape), dtype)


for _op_type, _outputs in _OUTPUTS.items():
    _register(_op_type, _outputs)
