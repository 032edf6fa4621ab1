"""Operators through which no gradient flows, each with the reason."""

from __future__ import annotations

from ..registry import Registry

rules = Registry()

rules.zero("Ceil", "Floor", "Hardmax", "Round", "Sign", reason="it is piecewise constant, so its derivative is 0")
rules.zero("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", reason="a comparison gives booleans")
rules.zero("And", "IsInf", "IsNaN", "Not", "Or", "Xor", reason="its output is boolean")
rules.zero("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", reason="it works on the bits of integers")
rules.zero("ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", reason="its output is integer indices")
rules.zero("ConvInteger", "MatMulInteger", reason="it works on integers")
rules.zero(
    "ImageDecoder",
    "RegexFullMatch",
    "StringConcat",
    "StringNormalizer",
    "StringSplit",
    "TfIdfVectorizer",
    reason="it reads strings, encoded bytes or integer tokens",
)
rules.zero(
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    reason="it draws a random sample, which carries no gradient back to its input",
)
rules.zero(
    "BlackmanWindow",
    "Constant",
    "ConstantOfShape",
    "EyeLike",
    "HammingWindow",
    "HannWindow",
    reason="its output depends on the shape or the integers it is given only",
)
rules.nondifferentiable("BitCast", reason="it reads the bits of a float as another type")
