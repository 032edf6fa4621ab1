"""ExpandContrib on a model that ONNX Runtime's optimizer could have written: one operator behind the other."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from onnxgrad.passes.expand_contrib import ExpandContrib
from onnxgrad.passes.infer_shapes import InferShapes

from .contrib_checking import sample
from .running import add_initializer, run

ENCODER = """
<ir_version: 10, opset_import: ["" : 26, "com.microsoft" : 1]>
g (int32[batch, sequence] ids, int32[batch, sequence] kinds, int32[batch, sequence] mask, bool deep)
    => (float[batch, sequence, 8] y, float[batch, sequence, 8] total)
{
    x, lengths = com.microsoft.EmbedLayerNormalization (ids, kinds, words, places, segments, scale, shift, mask)
    heads = com.microsoft.Attention <num_heads = 2> (x, weights, biases, lengths)
    mixed = com.microsoft.FusedMatMul <transB = 1> (heads, output_weight)
    normalized, mean, deviation, total = com.microsoft.SkipLayerNormalization (mixed, x, scale, shift, bias)
    y = If (deep) <
        then_branch = deeper () => (float[batch, sequence, 8] z) {
            wide = MatMul (normalized, inner)
            bent = com.microsoft.BiasGelu (wide, inner_bias)
            back = MatMul (bent, outer)
            z = Add (back, total)
        },
        else_branch = shallow () => (float[batch, sequence, 8] z) { z = com.microsoft.FastGelu (normalized) }
    >
}
"""
WEIGHTS = {
    "words": (9, 8),
    "places": (6, 8),
    "segments": (2, 8),
    "scale": (8,),
    "shift": (8,),
    "weights": (8, 24),
    "biases": (24,),
    "output_weight": (8, 8),
    "bias": (8,),
    "inner": (8, 12),
    "inner_bias": (12,),
    "outer": (12, 8),
}


def encoder() -> ir.Model:
    model = ir.from_onnx_text(ENCODER)
    for name, shape in WEIGHTS.items():
        add_initializer(model, name, sample(*shape).astype(np.float32))
    InferShapes()(model)
    return model


def test_a_whole_model() -> None:
    model = encoder()
    random = np.random.default_rng(0)
    feeds = {
        "ids": random.integers(0, 9, (3, 5), np.int32),
        "kinds": random.integers(0, 2, (3, 5), np.int32),
        "mask": np.array([[1, 1, 1, 0, 0], [1] * 5, [1, 1, 1, 1, 0]], np.int32),
    }
    expected = {deep: run(model, {**feeds, "deep": np.array(deep)}) for deep in (True, False)}
    assert ExpandContrib()(model).modified
    assert {node.domain for node in model.graph.all_nodes()} == {""}
    for deep, outputs in expected.items():
        actual = run(model, {**feeds, "deep": np.array(deep)})
        for name, array in outputs.items():
            np.testing.assert_allclose(actual[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


def test_values_keep_their_names_and_nodes_their_provenance() -> None:
    model = encoder()
    del model.graph.outputs[1]  # an intermediate value keeps its name, too
    attention = next(node for node in model.graph if node.op_type == "Attention")
    attention.name, attention.metadata_props["pkg.test"] = "encoder/attention", "kept"
    ExpandContrib()(model)
    by_name = {value.name: value for node in model.graph.all_nodes() for value in node.outputs}
    for name in ("x", "lengths", "heads", "mixed", "normalized", "total", "y", "bent"):
        assert name in by_name, name
        assert by_name[name].shape is not None
    producer = by_name["heads"].producer()
    assert producer is not None
    assert producer.name is not None
    assert producer.name.startswith("encoder/attention/")
    assert producer.metadata_props["pkg.test"] == "kept"


def test_shapes_that_nothing_else_knows_are_inferred_on_the_way() -> None:
    model = encoder()
    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.shape = None
    ExpandContrib()(model)
    assert {node.domain for node in model.graph.all_nodes()} == {""}


def test_a_model_without_such_operators_is_not_touched() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 26]> g (float[2] x) => (float[2] y) { y = Exp (x) }'
    )
    assert not ExpandContrib()(model).modified
    assert onnx.checker.check_model(ir.to_proto(model)) is None
