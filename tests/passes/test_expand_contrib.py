"""ExpandContrib: normalizations, activations and products against ONNX Runtime's kernels and PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from .contrib_checking import check_expansion, sample, stays

BATCH, SEQUENCE, WIDTH = 2, 3, 8
X, SKIP = sample(BATCH, SEQUENCE, WIDTH), sample(BATCH, SEQUENCE, WIDTH, seed=1)
SCALE, SHIFT, BIAS = (sample(WIDTH, seed=seed) for seed in (2, 3, 4))
FLOATS = (np.float32, np.float16)


@pytest.mark.parametrize(
    ("skip", "options"),
    [(SKIP, ""), (SKIP, "shift"), (SKIP, "bias"), (SKIP[:1], "shift bias"), (SKIP[0], "shift bias")],
)
def test_skip_layer_normalization(skip: np.ndarray, options: str) -> None:
    def function(x, skip, scale, shift, bias):  # type: ignore[no-untyped-def]
        total = x + skip if bias is None else x + skip + bias
        return F.layer_norm(total, (WIDTH,), scale, shift, 1e-3), total

    check_expansion(
        "SkipLayerNormalization",
        [X, skip, SCALE, SHIFT if "shift" in options else None, BIAS if "bias" in options else None],
        function,
        attributes={"epsilon": 1e-3},
        outputs=(True, False, False, True),
        static=(2, 3, 4),
        kernel_dtypes=FLOATS,
    )


def test_skip_layer_normalization_without_the_sum() -> None:
    check_expansion(
        "SkipLayerNormalization",
        [X, SKIP, SCALE, SHIFT],
        lambda x, skip, scale, shift: F.layer_norm(x + skip, (WIDTH,), scale, shift, 1e-12),
        static=(2, 3),
    )


def rms_norm(x: torch.Tensor, scale: torch.Tensor, epsilon: float) -> torch.Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + epsilon) * scale


@pytest.mark.parametrize("bias", [None, BIAS])
def test_skip_simplified_layer_normalization(bias: np.ndarray | None) -> None:
    def function(x, skip, scale, bias):  # type: ignore[no-untyped-def]
        total = x + skip if bias is None else x + skip + bias
        return rms_norm(total, scale, 1e-3), total

    check_expansion(
        "SkipSimplifiedLayerNormalization",
        [X, SKIP, SCALE, bias],
        function,
        attributes={"epsilon": 1e-3},
        outputs=(True, False, False, True),
        static=(2, 3),
        kernel_dtypes=FLOATS,
    )


def test_simplified_layer_normalization() -> None:
    check_expansion(
        "SimplifiedLayerNormalization",
        [X, SCALE],
        lambda x, scale: rms_norm(x, scale, 1e-3),
        attributes={"epsilon": 1e-3, "axis": -1, "stash_type": 1},
        static=(1,),
        domain="",
        kernel_dtypes=FLOATS,
    )


def test_simplified_layer_normalization_with_its_statistic() -> None:
    scale = sample(SEQUENCE, WIDTH)
    check_expansion("SimplifiedLayerNormalization", [X, scale], None, attributes={"axis": 1}, outputs=2, domain="")


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize(("activation", "skip"), [(0, None), (1, None), (0, "full"), (1, "channels")])
def test_group_normalization(last: int, activation: int, skip: str | None) -> None:
    x = sample(2, 3, 5, 8) if last else sample(2, 8, 3, 5)
    scale, shift, bias = (sample(8, seed=seed) for seed in range(3))

    def function(x, scale, shift, skip=None, bias=None):  # type: ignore[no-untyped-def]
        if last:
            x = x.permute(0, 3, 1, 2)
        if skip is not None:
            skip = skip[:, :, None, None] if skip.ndim == 2 else skip.permute(0, 3, 1, 2) if last else skip
            x = x + skip + bias[:, None, None]
        y = F.group_norm(x, 4, scale, shift, 1e-3)
        results = [F.silu(y) if activation else y, x]
        results = [each.permute(0, 2, 3, 1) for each in results] if last else results
        return results if skip is not None else results[0]

    more = [] if skip is None else [sample(*x.shape, seed=1) if skip == "full" else sample(2, 8), bias]
    check_expansion(
        "GroupNorm" if skip is None else "SkipGroupNorm",
        [x, scale, shift, *more],
        function,
        attributes={"groups": 4, "activation": activation, "channels_last": last, "epsilon": 1e-3},
        outputs=1 if skip is None else 2,
        static=(1, 2, 4),
        kernel_dtypes=(),
    )


@pytest.mark.parametrize(
    ("op_type", "inputs", "function"),
    [
        ("Gelu", [X], F.gelu),
        ("BiasGelu", [X, BIAS], lambda x, bias: F.gelu(x + bias)),
        ("FastGelu", [X], lambda x: F.gelu(x, approximate="tanh")),
        ("FastGelu", [X, BIAS], lambda x, bias: F.gelu(x + bias, approximate="tanh")),
        ("QuickGelu", [X], lambda x: x * torch.sigmoid(1.702 * x)),
    ],
)
def test_gelu(op_type: str, inputs: list, function: Callable) -> None:
    check_expansion(op_type, inputs, function, static=(1,))


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_quick_gelu_with_a_slope(alpha: float) -> None:
    check_expansion("QuickGelu", [X], lambda x: x * torch.sigmoid(alpha * x), attributes={"alpha": alpha})


def test_activations_of_diffusion_models() -> None:
    def split(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        left, right = (x + bias).chunk(2, -1)
        return left * F.gelu(right)

    check_expansion("BiasSplitGelu", [X, BIAS], split, static=(1,), kernel_dtypes=())
    check_expansion("BiasAdd", [X, BIAS, SKIP], lambda x, b, s: x + b + s, static=(1,), kernel_dtypes=())


def transposed(x: torch.Tensor, batch: int, matrix: int) -> torch.Tensor:
    x = x.permute(*range(1, x.ndim - 1), 0, x.ndim - 1) if batch else x
    return x.transpose(-1, -2) if matrix else x


@pytest.mark.parametrize(
    ("matrix", "batch"),
    [((1, 0), (0, 0)), ((0, 1), (0, 0)), ((0, 0), (1, 0)), ((0, 0), (0, 1)), ((1, 1), (1, 1))],
)
def test_fused_mat_mul(matrix: tuple[int, int], batch: tuple[int, int]) -> None:
    def stored(x: np.ndarray, side: int) -> np.ndarray:
        x = x.swapaxes(-1, -2) if matrix[side] else x
        return np.ascontiguousarray(np.moveaxis(x, -2, 0) if batch[side] else x)

    check_expansion(
        "FusedMatMul",
        [stored(sample(2, 3, 4, 5), 0), stored(sample(2, 3, 5, 6), 1)],
        lambda a, b: 0.5 * transposed(a, batch[0], matrix[0]) @ transposed(b, batch[1], matrix[1]),
        attributes={
            "alpha": 0.5,
            "transA": matrix[0],
            "transB": matrix[1],
            "transBatchA": batch[0],
            "transBatchB": batch[1],
        },
        kernel_dtypes=(np.float32, np.float64),
    )


@pytest.mark.parametrize("shapes", [((4, 5), (5, 6)), ((5,), (2, 5, 6)), ((2, 4, 5), (5,)), ((3, 2, 4, 5), (5, 6))])
def test_fused_mat_mul_broadcasts(shapes: tuple) -> None:
    inputs = [sample(*shape) for shape in shapes]
    check_expansion("FusedMatMul", inputs, lambda a, b: a @ b)
    check_expansion("TransposeMatMul", inputs, lambda a, b: 2 * a @ b, attributes={"alpha": 2.0})


ACTIVATIONS: dict[str, tuple[dict[str, float], Callable]] = {
    "Relu": ({}, torch.relu),
    "Tanh": ({}, torch.tanh),
    "Sigmoid": ({}, torch.sigmoid),
    "LeakyRelu": ({"alpha": 0.1}, lambda x: F.leaky_relu(x, 0.1)),
    "HardSigmoid": ({"alpha": 0.3, "beta": 0.4}, lambda x: torch.clip(0.3 * x + 0.4, 0, 1)),
}


@pytest.mark.parametrize("name", [*ACTIVATIONS, "Elu", "Softplus", "Softsign"])
def test_fused_gemm(name: str) -> None:
    of_gemm_only = {
        "Elu": ({"alpha": 0.5}, lambda x: F.elu(x, 0.5)),
        "Softplus": ({}, F.softplus),
        "Softsign": ({}, F.softsign),
    }
    parameters, function = {**ACTIVATIONS, **of_gemm_only}[name]
    check_expansion(
        "FusedGemm",
        [sample(4, 3), sample(5, 4), sample(5)],
        lambda a, b, c: function(0.5 * a.T @ b.T + 2 * c),
        attributes={
            "activation": name,
            **{f"activation_{key}": value for key, value in parameters.items()},
            "alpha": 0.5,
            "beta": 2.0,
            "transA": 1,
            "transB": 1,
        },
    )


def test_products_of_other_devices() -> None:
    check_expansion(
        "FusedMatMulActivation",
        [sample(2, 3, 4), sample(4, 5)],
        lambda a, b: F.leaky_relu(0.5 * a @ b, 0.1),
        attributes={"activation": "LeakyRelu", "activation_alpha": 0.1, "alpha": 0.5},
        kernel_dtypes=(),
    )
    check_expansion(
        "GemmFastGelu",
        [sample(2, 3, 4), sample(4, 5), sample(5)],
        lambda x, weight, bias: F.gelu(x @ weight + bias, approximate="tanh"),
        kernel_dtypes=(),
    )


@pytest.mark.parametrize(
    ("name", "residual"), [("", True), *((name, False) for name in (*ACTIVATIONS, "Clip")), ("Relu", True)]
)
def test_fused_conv(name: str, residual: bool) -> None:
    clip = {"Clip": ({"low": -0.3, "high": 0.4}, lambda x: torch.clip(x, -0.3, 0.4)), "": ({}, lambda x: x)}
    parameters, function = {**ACTIVATIONS, **clip}[name]
    attributes = {
        **({"activation": name} if name else {}),
        **({"activation_params": list(parameters.values())} if parameters else {}),
        "group": 2,
        "pads": [1, 1, 1, 1],
        "strides": [2, 2],
    }
    x, weight, bias, z = sample(1, 4, 5, 4), sample(4, 2, 3, 3), sample(4), sample(1, 4, 3, 2)

    def convolution(x, weight, bias, z=None):  # type: ignore[no-untyped-def]
        y = F.conv2d(x, weight, bias, stride=2, padding=1, groups=2)
        return function(y if z is None else y + z)

    def channels_last(x, weight, bias, z=None):  # type: ignore[no-untyped-def]
        z = None if z is None else z.permute(0, 3, 1, 2)
        return convolution(x.permute(0, 3, 1, 2), weight, bias, z).permute(0, 2, 3, 1)

    more = [z] if residual else []
    check_expansion("FusedConv", [x, weight, bias, *more], convolution, attributes=attributes, static=(1, 2))
    if residual:
        check_expansion(
            "NhwcFusedConv",
            [np.moveaxis(x, 1, -1), weight, bias, *(np.moveaxis(each, 1, -1) for each in more)],
            channels_last,
            attributes=attributes,
            static=(1, 2),
            kernel_dtypes=(),
        )


def test_forms_that_are_not_covered_stay() -> None:
    assert stays("FusedGemm", [sample(2, 3), sample(3, 4)], attributes={"activation": "Mystery"})
    assert stays("FusedConv", [sample(1, 2, 4, 4), sample(3, 2, 3, 3)], attributes={"activation": "Mystery"})
    assert stays("QLinearSigmoid", [sample(2, 3)])
    assert stays("SkipSimplifiedLayerNormalization", [X, SKIP, SCALE], outputs=2)
