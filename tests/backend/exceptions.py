"""What has no gradient to check, and which cases cannot pass, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

FIXED_INPUTS = {
    ("Dropout", 1): "the ratio decides what is dropped",
    ("OneHot", 0): "the indices decide what is hot",
    ("OneHot", 1): "the depth decides the size of the output",
    ("Resize", 1): "the region of interest decides the positions that are sampled",
    ("Resize", 2): "the scales decide the size of the output",
    ("RoiAlign", 1): "the regions decide the positions that are sampled",
    ("Upsample", 1): "the scales decide the size of the output",
}
"""Float inputs, by operator and index, that onnxgrad holds to be settings; they are neither moved nor checked."""

SAMPLERS = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
"""Operators whose output is drawn at random, which carries no gradient."""

DEFINED_IN_FLOAT32 = ("CausalConvWithState", "FlexAttention", "LinearAttention", "SwiGLU")
"""Operators that the reference evaluator computes by their definitions, which cast to float32."""

DRAWS = ("training_dropout", "training_dropout_default", "training_dropout_default_mask", "training_dropout_mask")
"""Cases that draw what they drop, each time anew; they are linear in their input otherwise."""

RUNTIME_DEVIATES = {
    "attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal": "the masked scores it gives out differ",
    "attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal": "the masked scores it gives out differ",
    "maxunpool_export_with_output_shape": "it takes the indices for positions in the given output shape",
    "resize_downsample_scales_cubic_align_corners": "it aligns corners by the size of the output cut to an integer",
    "resize_downsample_scales_linear_align_corners": "it aligns corners by the size of the output cut to an integer",
}
"""Cases whose outputs in ONNX Runtime are not those of the suite. The gradient is that of what the runtime computes."""

EVERYWHERE = {
    "simple/gradient_of_add*": "no runtime has a kernel of Gradient to compare with; tests/transforms has these cases",
    "node/attention_4d_causal_padded_kv_bf16": "ONNX Runtime takes no mask that is shorter than the keys",
    "node/attention_4d_diff_heads_mask4d_padded_kv": "ONNX Runtime takes no mask that is shorter than the keys",
    "node/attention_4d_padded_kv_bf16": "ONNX Runtime takes no mask that is shorter than the keys",
    "node/dequantizelinear_float4e2m1": "ONNX Runtime has no kernel for float4",
    "node/dynamicquantizelinear": "its integers carry no gradient, so that the scale's alone would mislead",
    "node/dynamicquantizelinear_*_adjusted": "its integers carry no gradient, so that the scale's alone would mislead",
    "node/loop16_seq_none": "a Loop whose state begins as an optional sequence, and goes on as a sequence",
    "node/pow_types_float32_uint*": "ONNX Runtime has no kernel for unsigned exponents",
}
"""Cases without a gradient in any mode."""

SYMBOLIC = {
    "node/affine_grid_*_expanded": "it squeezes axes of unknown sizes, so that the rank of what is left is unknown",
    "node/causal_conv_with_state*[!d]": "its definition needs the size of the kernel",
}

GRADIENT = {
    "node/adam_multiple": "the reference evaluator gives several tensors in float32, too coarsely for differences",
}

SECOND = {
    **GRADIENT,
    "node/sequence_map_add_*_expanded": "its backward Loop carries sequences, and the next would keep them all",
    "node/sequence_map_identity_*_expanded": "its backward Loop carries sequences, and the next would keep them all",
}

EXCEPTIONS: Mapping[str, Mapping[str, str]] = {
    "*": EVERYWHERE,
    "gradient": GRADIENT,
    "symbolic": SYMBOLIC,
    "second": SECOND,
}
"""Why cases fail, by mode and by pattern of their names; "*" is every mode."""


def reason_for(name: str, mode: str) -> str | None:
    """Why the case *name* fails in *mode*, None if it must pass."""
    listed = {**EXCEPTIONS["*"], **EXCEPTIONS[mode]}
    return next((reason for pattern, reason in listed.items() if fnmatchcase(name, pattern)), None)
