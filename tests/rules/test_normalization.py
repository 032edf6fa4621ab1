"""Rules of the normalizations and Dropout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from .checking import check_rule

random = np.random.default_rng(5)


def sample(*shape: int) -> np.ndarray:
    return random.uniform(-2, 2, shape)


def positive(*shape: int) -> np.ndarray:
    return random.uniform(0.5, 2, shape)


@pytest.mark.parametrize(("shape", "axis"), [((3, 5), -1), ((2, 3, 4), -1), ((2, 3, 4), 1), ((4,), 0)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("epsilon", [2**-17, 2**-7])
def test_layer_normalization(shape: tuple[int, ...], axis: int, bias: bool, epsilon: float) -> None:
    normalized = shape[axis % len(shape) :]
    inputs = [sample(*shape), positive(*normalized)] + ([sample(*normalized)] if bias else [])
    check_rule(
        "LayerNormalization",
        inputs,
        attributes={"axis": axis, "epsilon": epsilon},
        torch_function=lambda x, scale, bias=None: F.layer_norm(x, normalized, scale, bias, epsilon),
    )


def test_layer_normalization_with_its_statistics() -> None:
    def expected(x: torch.Tensor, scale: torch.Tensor) -> list[torch.Tensor]:
        mean = x.mean(-1, keepdim=True)
        inv_std = torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + 2**-17)
        return [F.layer_norm(x, x.shape[-1:], scale, eps=2**-17), mean, inv_std]

    check_rule(
        "LayerNormalization",
        [sample(3, 6), positive(6)],
        attributes={"epsilon": 2**-17},
        outputs=3,
        torch_function=expected,
        runtime_dtypes=(np.float32,),
    )


def test_layer_normalization_broadcasts_its_scale() -> None:
    check_rule(
        "LayerNormalization",
        [sample(2, 3, 4), positive(4)],
        attributes={"axis": 1, "epsilon": 2**-17},
        torch_function=lambda x, scale: F.layer_norm(x, (3, 4), eps=2**-17) * scale,
    )


@pytest.mark.parametrize(("shape", "axis"), [((3, 5), -1), ((2, 3, 4), 1)])
def test_rms_normalization(shape: tuple[int, ...], axis: int) -> None:
    normalized = shape[axis % len(shape) :]
    check_rule(
        "RMSNormalization",
        [sample(*shape), positive(*normalized)],
        attributes={"axis": axis, "epsilon": 2**-10},
        torch_function=lambda x, scale: F.rms_norm(x, normalized, scale, 2**-10),
    )


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (2, 3, 2, 2), (1, 2, 2, 1, 2)])
def test_batch_normalization_at_inference(shape: tuple[int, ...]) -> None:
    channels = shape[1]
    check_rule(
        "BatchNormalization",
        [sample(*shape), positive(channels), sample(channels), sample(channels), positive(channels)],
        attributes={"epsilon": 2**-10},
        torch_function=lambda x, scale, bias, mean, var: (
            (x.movedim(1, -1) - mean) / torch.sqrt(var + 2**-10) * scale + bias
        ).movedim(-1, 1),
    )


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 2, 2)])
def test_batch_normalization_in_training(shape: tuple[int, ...]) -> None:
    channels, axes = shape[1], [axis for axis in range(len(shape)) if axis != 1]

    def expected(x, scale, bias, mean, var):
        new_mean, new_var = x.mean(axes), x.var(axes, unbiased=False)
        y = ((x.movedim(1, -1) - new_mean) / torch.sqrt(new_var + 2**-17) * scale + bias).movedim(-1, 1)
        return [y, mean * 0.75 + new_mean * 0.25, var * 0.75 + new_var * 0.25]

    check_rule(
        "BatchNormalization",
        [sample(*shape), positive(channels), sample(channels), sample(channels), positive(channels)],
        attributes={"training_mode": 1, "momentum": 0.75, "epsilon": 2**-17},
        outputs=3,
        torch_function=expected,
    )


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 2, 3)])
def test_instance_normalization(shape: tuple[int, ...]) -> None:
    check_rule(
        "InstanceNormalization",
        [sample(*shape), positive(3), sample(3)],
        attributes={"epsilon": 2**-7},
        torch_function=lambda x, scale, bias: F.instance_norm(x, weight=scale, bias=bias, eps=2**-7),
    )


@pytest.mark.parametrize(("shape", "groups"), [((2, 6, 3), 3), ((2, 4, 2, 2), 2), ((3, 4), 1)])
def test_group_normalization(shape: tuple[int, ...], groups: int) -> None:
    check_rule(
        "GroupNormalization",
        [sample(*shape), positive(shape[1]), sample(shape[1])],
        attributes={"num_groups": groups, "epsilon": 2**-7},
        torch_function=lambda x, scale, bias: F.group_norm(x, groups, scale, bias, 2**-7),
    )


@pytest.mark.parametrize(("shape", "axes"), [((2, 3, 2, 2), None), ((3, 4), [1]), ((2, 3, 4), [0, -1])])
def test_mean_variance_normalization(shape: tuple[int, ...], axes: list[int] | None) -> None:
    over = axes or [0, 2, 3]
    check_rule(
        "MeanVarianceNormalization",
        [sample(*shape)],
        attributes={} if axes is None else {"axes": axes},
        torch_function=lambda x: (x - x.mean(over, keepdim=True)) / (x.std(over, unbiased=False, keepdim=True) + 1e-9),
        # The runtime expands the operator, whose body has float32 constants.
        runtime_dtypes=(np.float32,),
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(2, 6, 3), (1, 4, 2, 2)])
def test_lrn(size: int, shape: tuple[int, ...]) -> None:
    def expected(x: torch.Tensor) -> torch.Tensor:
        padded = F.pad(x.square().movedim(1, -1), ((size - 1) // 2, size // 2))
        windows = padded.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
        return x / (1.5 + 0.25 / size * windows) ** 0.625

    check_rule(
        "LRN",
        [sample(*shape)],
        attributes={"size": size, "alpha": 0.25, "beta": 0.625, "bias": 1.5},
        torch_function=expected,
        # The runtime has a kernel for images and odd sizes only.
        runtime_dtypes=(np.float32, np.float16) if len(shape) == 4 and size % 2 else (),
    )


def test_lrn_is_that_of_pytorch() -> None:
    check_rule(
        "LRN",
        [sample(2, 6, 3, 3)],
        attributes={"size": 5, "alpha": 0.125},
        torch_function=lambda x: F.local_response_norm(x, 5, alpha=0.125),
    )


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_lp_normalization(p: int, axis: int) -> None:
    x = positive(3, 4) * np.sign(sample(3, 4))
    check_rule(
        "LpNormalization",
        [x],
        attributes={"p": p, "axis": axis},
        torch_function=lambda x: x / torch.linalg.vector_norm(x, p, dim=axis, keepdim=True),
        runtime_dtypes=(np.float32,),
    )


@pytest.mark.parametrize("inputs", [[], [np.array(0.3)], [np.array(0.3), np.array(False)], [None, np.array(False)]])
def test_dropout_at_inference(inputs: list[np.ndarray | None]) -> None:
    constants = [1 + index for index, value in enumerate(inputs) if value is not None]
    check_rule("Dropout", [sample(3, 4), *inputs], constants=constants, wrt=[0], torch_function=lambda x, *_: x * 1)
