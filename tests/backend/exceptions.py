"""What has no gradient to check, and which cases cannot pass, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

FIXED_INPUTS = {
    ("Dropout", 1): "the ratio decides what is dropped",
    ("Resize", 1): "the region of interest decides the positions that are sampled",
    ("Resize", 2): "the scales decide the size of the output",
    ("Upsample", 1): "the scales decide the size of the output",
}
"""Float inputs, by operator and index, that onnxgrad holds to be settings; they are neither moved nor checked."""

SAMPLERS = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
"""Operators whose output is drawn at random, which carries no gradient."""

DRAWS = ("training_dropout", "training_dropout_default", "training_dropout_default_mask", "training_dropout_mask")
"""Cases that draw what they drop, each time anew; they are linear in their input otherwise."""

RUNTIME_DEVIATES = {
    "attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal": "the masked scores it gives out differ",
    "attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal": "the masked scores it gives out differ",
    "resize_downsample_scales_cubic_align_corners": "it aligns corners by the size of the output cut to an integer",
    "resize_downsample_scales_linear_align_corners": "it aligns corners by the size of the output cut to an integer",
}
"""Cases whose outputs in ONNX Runtime are not those of the suite. The gradient is that of what the runtime computes."""

NO_RULE_YET = {
    "node/*deform_conv*": "DeformConv",
    "node/ai_onnx_ml_*": "the operators of ai.onnx.ml",
    "node/flexattention*": "FlexAttention of ai.onnx.preview",
    "node/roialign*": "RoiAlign",
}
"""Cases whose operators have no rule yet."""

EXCEPTIONS: Mapping[str, Mapping[str, str]] = {
    "*": NO_RULE_YET,
    "gradient": {},
    "symbolic": {},
    "second": {},
}
"""Why cases fail, by mode and by pattern of their names; "*" is every mode."""


def reason_for(name: str, mode: str) -> str | None:
    """Why the case *name* fails in *mode*, None if it must pass."""
    listed = {**EXCEPTIONS["*"], **EXCEPTIONS[mode]}
    return next((reason for pattern, reason in listed.items() if fnmatchcase(name, pattern)), None)
