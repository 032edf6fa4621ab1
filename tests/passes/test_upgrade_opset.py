"""Every operator's form since opset 7, against the runtime's own reading of the old form."""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from onnxgrad.passes.errors import UnsupportedError
from onnxgrad.passes.infer_shapes import InferShapes
from onnxgrad.passes.lower_opset import LowerOpset
from onnxgrad.passes.opset_adapters import ADAPTERS
from onnxgrad.passes.tape import CANONICAL_OPSET
from onnxgrad.passes.upgrade_opset import UpgradeOpset

from .old_models import ints, model, run, run_named, sample, upgraded_text

# The changes of an operator after opset 7 that need no adapter: they only added types, defaults, or wording.
FORM_UNCHANGED = {
    8: "Max MaxPool Mean Min Sum",
    9: "Cast Constant Flatten Gemm Greater Less MatMul PRelu",
    10: "AveragePool MaxPool",
    11: "ArgMax ArgMin AveragePool Compress Concat Constant Conv ConvTranspose DepthToSpace Equal Flatten Gather Gemm "
    "Hardmax If LogSoftmax Loop LpPool MaxPool MaxUnpool NonMaxSuppression OneHot ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Scan Slice Softmax Split "
    "Squeeze TopK Unsqueeze",
    12: "ArgMax ArgMin Clip Constant GatherND Max MaxPool Min Pow ReduceMax ReduceMin",
    13: "Abs Add ArgMax ArgMin Cast Ceil Clip Concat Constant DepthToSpace DequantizeLinear Div Dropout Equal Erf Exp "
    "Expand Flatten Floor Gather GatherElements GatherND Gemm Greater Identity If IsNaN LRN Less Log Loop MatMul Max "
    "Mean MeanVarianceNormalization Min Mod Mul Neg NegativeLogLikelihoodLoss NonZero Pad Pow QuantizeLinear "
    "Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSumSquare Relu Reshape ScatterElements ScatterND Shape Sigmoid Sign Size Slice "
    "SoftmaxCrossEntropyLoss SpaceToDepth Sqrt Sub Sum Tanh Tile Transpose",
    14: "Add CumSum Div GRU Identity LSTM Mul RNN Relu Reshape Sub",
    15: "BatchNormalization Pow Shape",
    16: "GreaterOrEqual Identity If LeakyRelu LessOrEqual Loop PRelu Scan ScatterElements ScatterND Where",
    18: "LpPool OptionalGetElement OptionalHasElement Pad Resize ScatterElements ScatterND",
    19: "AveragePool Cast CastLike Constant DequantizeLinear Equal Identity If Loop Pad QuantizeLinear Reshape Resize "
    "Scan Shape Size",
    20: "ConstantOfShape IsInf IsNaN ReduceMax ReduceMin",
    21: "Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop Pad QLinearMatMul "
    "QuantizeLinear Reshape Scan Shape Size Squeeze Transpose Unsqueeze",
    22: "Acos Acosh Asin Asinh Atan Atanh AveragePool Bernoulli Conv ConvTranspose Cos Cosh DeformConv Det Dropout Elu "
    "EyeLike GRU GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample HardSigmoid HardSwish InstanceNormalization "
    "LSTM LpNormalization LpPool MaxPool MaxRoiPool MaxUnpool Mish Multinomial NegativeLogLikelihoodLoss RNN "
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike RoiAlign Round Selu Sin Sinh Softplus Softsign Tan "
    "ThresholdedRelu",
    23: "Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop Pad QuantizeLinear Reshape "
    "Scan Shape Size Squeeze Transpose Unsqueeze",
    24: "Attention Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop Pad QuantizeLinear "
    "Reshape Scan Shape Size SplitToSequence Squeeze TopK Transpose Unsqueeze",
    25: "Attention Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop Pad QuantizeLinear "
    "Reshape Scan Shape Size Squeeze Transpose Unsqueeze",
}


def test_every_change_of_every_operator_is_known() -> None:
    schemas = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""]
    first = {s.name: min(t.since_version for t in schemas if t.name == s.name) for s in schemas}
    changes = {
        (s.name, s.since_version)
        for s in schemas
        if 7 < s.since_version <= CANONICAL_OPSET and s.since_version > first[s.name]
    }
    unchanged = {(name, version) for version, names in FORM_UNCHANGED.items() for name in names.split()}
    assert changes - set(ADAPTERS) - unchanged == set()
    assert (set(ADAPTERS) | unchanged) - changes == set()
    assert set(ADAPTERS) & unchanged == set()


CASES = [
    ("Slice", 9, [sample(4, 5)], {"starts": [1, 0], "ends": [3, 4], "axes": [0, 1]}, 1),
    ("Slice", 9, [sample(4, 5)], {"starts": [1, 0], "ends": [3, 4]}, 1),
    ("TopK", 9, [sample(3, 6)], {"k": 2, "axis": 1}, 2),
    ("Upsample", 7, [sample(1, 2, 3, 3)], {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "nearest"}, 1),
    ("Upsample", 9, [sample(1, 2, 3, 3), np.array([1, 1, 2, 3], np.float32)], {"mode": "linear"}, 1),
    ("Resize", 10, [sample(1, 2, 4, 4), np.array([1, 1, 1.5, 2], np.float32)], {"mode": "nearest"}, 1),
    ("Resize", 10, [sample(1, 2, 4, 4), np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}, 1),
    ("Clip", 7, [sample(5)], {"min": -0.5, "max": 0.5}, 1),
    ("Clip", 10, [sample(5)], {"min": 0.0}, 1),
    ("Clip", 10, [sample(5)], {}, 1),
    ("Pad", 10, [sample(2, 3)], {"pads": [1, 0, 0, 2], "value": 1.5}, 1),
    ("Pad", 10, [sample(2, 3)], {"pads": [1, 0, 0, 2], "mode": "reflect"}, 1),
    ("Scatter", 10, [sample(3, 3), np.array([[0, 2]]), sample(1, 2)], {"axis": 0}, 1),
    ("Dropout", 7, [sample(3, 3)], {"ratio": 0.3}, 1),
    ("Dropout", 10, [sample(3, 3)], {}, 1),
    *[(op, 11, [sample(2, 3, 4)], {}, 1) for op in ("Softmax", "LogSoftmax", "Hardmax")],
    ("Softmax", 9, [sample(2, 3, 4)], {"axis": 2}, 1),
    ("Softmax", 9, [sample(2, 3, 1, 1)], {"axis": 1}, 1),
    ("Softmax", 11, [sample(2, 3, 4, 2)], {"axis": -2}, 1),
    ("Split", 11, [sample(6, 2)], {"split": [2, 4], "axis": 0}, 2),
    ("Split", 11, [sample(6, 2)], {"axis": 0}, 3),
    ("Split", 13, [sample(6, 2), ints(1, 5)], {"axis": 0}, 2),
    ("Split", 13, [sample(6, 2)], {"axis": 0}, 2),
    ("Squeeze", 11, [sample(2, 1, 3, 1)], {"axes": [1, 3]}, 1),
    ("Squeeze", 11, [sample(2, 1, 3, 1)], {}, 1),
    ("Unsqueeze", 11, [sample(2, 3)], {"axes": [0, 3]}, 1),
    ("BatchNormalization", 7, [sample(2, 3, 4), *(np.abs(sample(3)) + 0.1 for _ in range(4))], {"epsilon": 1e-3}, 1),
    *[
        (
            "BatchNormalization",
            7,
            [sample(2, 3, *inner), *(np.abs(sample(3, *inner)) + 0.1 for _ in range(4))],
            {"spatial": 0},
            1,
        )
        for inner in ((), (4,), (2, 5))
    ],
    ("BatchNormalization", 9, [sample(2, 3, 4), *(np.abs(sample(3)) + 0.1 for _ in range(4))], {}, 1),
    *[
        (op, 11, [np.abs(sample(2, 3, 4)) + 0.1], {"axes": [1, 2], "keepdims": 0}, 1)
        for op in (
            "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
            "ReduceSumSquare ReduceSum".split()
        )
    ],
    ("ReduceMean", 13, [sample(2, 3, 4)], {}, 1),
    (
        "RoiAlign",
        10,
        [sample(1, 2, 6, 6), np.array([[0, 0, 5, 4]], np.float32), ints(0)],
        {"output_height": 2, "output_width": 3},
        1,
    ),
    ("GridSample", 16, [sample(1, 2, 4, 4), np.tanh(sample(1, 3, 3, 2))], {"mode": "bilinear"}, 1),
    ("GridSample", 16, [sample(1, 2, 4, 4), np.tanh(sample(1, 3, 3, 2))], {}, 1),
    ("DFT", 17, [sample(1, 6, 1)], {"axis": 1}, 1),
    ("DFT", 17, [sample(1, 6, 4, 1)], {"axis": 2, "onesided": 1}, 1),
    ("GroupNormalization", 18, [sample(2, 6, 3), sample(3), sample(3)], {"num_groups": 3}, 1),
    ("Cast", 7, [sample(2, 3)], {"to": TensorProto.INT64}, 1),
    ("Sum", 7, [sample(3), sample(3)], {}, 1),
]


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
@pytest.mark.parametrize(
    ("op", "opset", "inputs", "attributes", "outputs"), CASES, ids=lambda v: v if isinstance(v, str) else None
)
def test_an_upgraded_node_computes_the_same(op, opset, inputs, attributes, outputs, symbolic) -> None:
    original = model(op, opset, inputs, attributes, outputs, symbolic=symbolic)
    upgraded = ir.from_proto(original)
    UpgradeOpset()(upgraded)
    assert upgraded.opset_imports[""] == CANONICAL_OPSET
    InferShapes()(upgraded)
    canonical = ir.to_proto(upgraded)
    onnx.checker.check_model(canonical)
    lowered = ir.from_proto(canonical)
    LowerOpset()(lowered)
    onnx.checker.check_model(ir.to_proto(lowered))
    # The runtime lacks kernels for some of the newest forms, so the lowered model is what runs.
    for actual, wanted in zip(run(ir.to_proto(lowered), inputs), run(original, inputs), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)


def test_names_and_metadata_stay() -> None:
    upgraded = ir.from_proto(model("Softmax", 11, [sample(2, 3, 4)], {}, 1, symbolic=False))
    node = upgraded.graph.node(0)
    node.metadata_props["source"] = "line 7"
    UpgradeOpset()(upgraded)
    assert [n.op_type for n in upgraded.graph] == ["Shape", "Flatten", "Softmax", "Reshape"]
    assert all(n.metadata_props["source"] == "line 7" for n in upgraded.graph)
    assert (node.op_type, node.name) == ("Softmax", "n")
    assert upgraded.graph.outputs[0].name == "y0"
    assert upgraded.graph.outputs[0].producer().name == "n/reshape"


def test_nodes_of_subgraphs_are_upgraded() -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 7, opset_import: ["" : 11]>
        case (bool c, float[2, 3] x) => (float[N] y) {
            y = If (c) <
                then_branch = then () => (float[N] t) { t = ReduceSum <axes = [1], keepdims = 0> (x) },
                else_branch = other () => (float[N] e) { e = ReduceMax <axes = [0], keepdims = 0> (x) }
            >
        }
    """)
    upgraded = ir.from_proto(proto)
    UpgradeOpset()(upgraded)
    session = ort.InferenceSession(ir.to_proto(upgraded).SerializeToString(), providers=["CPUExecutionProvider"])
    x = sample(2, 3)
    np.testing.assert_allclose(session.run(None, {"c": np.array(True), "x": x})[0], x.sum(1), rtol=1e-6)
    np.testing.assert_allclose(session.run(None, {"c": np.array(False), "x": x})[0], x.max(0), rtol=1e-6)


def softmax(x: np.ndarray) -> np.ndarray:
    """Over all axes but the first."""
    axes = tuple(range(1, x.ndim))
    powers = np.exp(x - x.max(axes, keepdims=True))
    return powers / powers.sum(axes, keepdims=True)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_nodes_without_names(op: str) -> None:
    upgraded = upgraded_text(f"g (float[2,3,4] x) => (float[2,3,4] y) {{ y = {op} (x) }}", 11)
    (node,) = [node for node in upgraded.graph if node.op_type == op]
    assert node.name == f"y/{op.lower()}"
    x = sample(2, 3, 4)
    wanted = {
        "Softmax": softmax(x),
        "LogSoftmax": np.log(softmax(x)),
        "Hardmax": (x == x.max((1, 2), keepdims=True)).astype(np.float32),
    }
    np.testing.assert_allclose(run_named(upgraded, x=x)[0], wanted[op], rtol=1e-5)


def test_generated_names_are_fresh_in_the_whole_model() -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 7, opset_import: ["" : 11]>
        g (bool c, float[2,3,4] x) => (float[2,3,4] y, float[A,B,C] z, float[D,E] w, float[2,3,4] f) {
            y = Softmax (x)
            f = Neg (x)
            z = If (c) <
                then_branch = t () => (float[A,B,C] o) { h = Softmax (x)  o = Neg (h) },
                else_branch = e () => (float[A,B,C] o) { h = Abs (x)  o = Softmax (h) }
            >
            w = ReduceSum <axes = [2], keepdims = 0> (x)
        }
    """)
    for node in (*proto.graph.node, *(n for a in proto.graph.node[2].attribute for n in a.g.node)):
        node.name = "same" if node.op_type in ("Softmax", "ReduceSum") else ""
    # Names that the pass would give, where no initializer of the main graph has them.
    proto.graph.input[1].name = "same/axes"
    proto.graph.output[3].name = "same/flat"
    for node in (*proto.graph.node, *(n for a in proto.graph.node[2].attribute for n in a.g.node)):
        node.input[:] = ["same/axes" if name == "x" else name for name in node.input]
        node.output[:] = ["same/flat" if name == "f" else name for name in node.output]
    upgraded = ir.from_proto(proto)
    UpgradeOpset()(upgraded)
    for index, node in enumerate(upgraded.graph.all_nodes()):
        node.name = f"{index}"  # the runtime wants those of the file apart, too
    onnx.checker.check_model(ir.to_proto(upgraded))
    LowerOpset()(upgraded)
    x = sample(2, 3, 4)
    for c, z in ((True, -softmax(x)), (False, softmax(np.abs(x)))):
        results = run_named(upgraded, c=np.array(c), **{"same/axes": x})
        for actual, wanted in zip(results, (softmax(x), z, x.sum(2), -x), strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("node", "wanted"),
    [
        ("Softmax (h)", softmax),
        ("Clip <min = -0.25, max = 0.5> (h)", lambda h: h.clip(-0.25, 0.5)),
        (
            "Pad <pads = [0, 0, 1, 0, 0, 0], value = 1.5> (h)",
            lambda h: np.pad(h, ((0, 0), (0, 0), (1, 0)), constant_values=1.5),
        ),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_neither_rank_nor_type_need_be_known(node: str, wanted, dtype: type) -> None:
    # SampleOp, which lets its input through, is the runtime's own, so that no shape inference looks behind it.
    of = {np.float32: "float", np.float16: "float16"}[dtype]
    upgraded = upgraded_text(
        f"g ({of}[2,3,4] x) => ({of}[A,B,C] y) {{ h = com.microsoft.SampleOp (x)  y = {node} }}", 10
    )
    assert next(iter(upgraded.graph)).outputs[0].type is None
    x = sample(2, 3, 4).astype(dtype)
    (actual,) = run_named(upgraded, x=x)
    np.testing.assert_allclose(actual, wanted(x), rtol=1e-5 if dtype == np.float32 else 2e-3, atol=1e-6)


def test_shapes_behind_the_oldest_forms_are_known_in_subgraphs_too() -> None:
    upgraded = upgraded_text(
        """g (bool c, float[1,2,1,3] x) => (float[1,2,1,6] y) {
            y = If (c) <
                then_branch = t () => (float[1,2,1,6] a) {
                    u = Upsample <scales = [1.0, 1.0, 1.0, 2.0]> (x)
                    a = Softmax <axis = 3> (u)
                },
                else_branch = e () => (float[1,2,1,6] b) { b = Upsample <scales = [1.0, 1.0, 1.0, 2.0]> (x) }
            >
        }""",
        7,
    )
    assert [node.op_type for node in upgraded.graph.all_nodes()] == ["If", "Resize", "Softmax", "Resize"]


@pytest.mark.parametrize("opset", [7, 9])
def test_a_mask_of_dropout_keeps_its_type(opset: int) -> None:
    upgraded = upgraded_text(
        "g (float[2,3] x) => (float[2,3] y, float[2,3] m) { d, m = Dropout (x) y = Mul (d, m) }", opset
    )
    x = sample(2, 3)
    y, mask = run_named(upgraded, x=x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(mask, np.ones((2, 3), np.float32))


def test_double_groups_are_normalized_in_double() -> None:
    x, s = sample(2, 6, 3).astype(np.float64), sample(3).astype(np.float64)
    upgraded = ir.from_proto(model("GroupNormalization", 18, [x, s, s], {"num_groups": 3}, 1, symbolic=False))
    UpgradeOpset()(upgraded)
    grouped = x.reshape(2, 3, 6)
    normal = (grouped - grouped.mean(2, keepdims=True)) / np.sqrt(
        grouped.var(2, keepdims=True) + float(np.float32(1e-5))
    )
    wanted = normal * s[:, None] + s[:, None]
    (actual,) = ReferenceEvaluator(ir.to_proto(upgraded)).run(None, {"x0": x, "x1": s, "x2": s})
    np.testing.assert_allclose(actual, wanted.reshape(2, 6, 3), rtol=1e-12)


@pytest.mark.parametrize(
    ("op", "opset", "inputs", "attributes", "outputs", "message"),
    [
        ("Relu", 6, [sample(2)], {}, 1, "opset 6"),
        ("BatchNormalization", 7, [sample(2, 3, 4), *[sample(3, 4)] * 4], {"spatial": 0}, 5, "spatial=0"),
        ("BatchNormalization", 9, [sample(2, 3, 4), *[sample(3)] * 4], {}, 5, "saved statistics"),
    ],
)
def test_what_has_no_equivalent_is_refused(op, opset, inputs, attributes, outputs, message) -> None:
    upgraded = ir.from_proto(model(op, opset, inputs, attributes, outputs, symbolic=False))
    with pytest.raises(UnsupportedError, match=message):
        UpgradeOpset()(upgraded)


def test_an_operator_that_is_newer_than_the_runtime_is_named() -> None:
    newer = next((s for s in onnx.defs.get_all_schemas() if s.domain == "" and s.since_version > CANONICAL_OPSET), None)
    if newer is None:
        pytest.skip("this onnx has no operator newer than the canonical opset")
    graph = ir.Graph([], [], nodes=[ir.Node("", newer.name, [], name="late")], opset_imports={"": newer.since_version})
    with pytest.raises(UnsupportedError, match="late"):
        UpgradeOpset()(ir.Model(graph, ir_version=13))


def test_an_opset_that_the_installed_onnx_does_not_know_is_refused() -> None:
    graph = ir.Graph([], [], nodes=[ir.Node("", "Relu", [], name="n")], opset_imports={"": 1000})
    with pytest.raises(UnsupportedError, match=r"opset 1000; the installed onnx .* knows opsets up to"):
        UpgradeOpset()(ir.Model(graph, ir_version=13))


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_whole_models_of_opset_9(name: str) -> None:
    folder = os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data", "light")
    original = onnx.load(os.path.join(folder, f"light_{name}.onnx"))
    upgraded = ir.from_proto(original)
    UpgradeOpset()(upgraded)
    LowerOpset()(upgraded)
    assert upgraded.opset_imports[""] == 18
    sessions = [
        ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        for proto in (original, ir.to_proto(upgraded))
    ]
    (image,) = sessions[0].get_inputs()
    before, after = (session.run(None, {image.name: sample(*image.shape)})[0] for session in sessions)
    np.testing.assert_allclose(after, before, rtol=1e-5)
