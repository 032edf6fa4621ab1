"""ONNX Runtime's own operators through which no gradient flows, each with the reason.

The others are expanded into standard operators before the differentiation (`passes.expand_contrib`).
"""

from __future__ import annotations

from ..registry import Registry

_MICROSOFT = "com.microsoft"

rules = Registry()

rules.nondifferentiable(
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
    "QAttention",
    "QEmbedLayerNormalization",
    "QGemm",
    "QLinearAdd",
    "QLinearAveragePool",
    "QLinearConcat",
    "QLinearConv",
    "QLinearGlobalAveragePool",
    "QLinearLeakyRelu",
    "QLinearMul",
    "QLinearReduceMean",
    "QLinearSigmoid",
    "QLinearSoftmax",
    "QLinearWhere",
    "QMoE",
    domain=_MICROSOFT,
    reason="it computes on integers, which carry no gradient; differentiate the model before it is quantized, or its "
    "form with QuantizeLinear and DequantizeLinear around the operators on floats",
)
rules.nondifferentiable(
    "MatMulIntegerToFloat",
    "MulInteger",
    "ReduceSumInteger",
    domain=_MICROSOFT,
    reason="it works on integers, which carry no gradient; differentiate the model before it is quantized",
)
