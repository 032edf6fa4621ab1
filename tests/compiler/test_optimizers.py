"""The update graphs: proven to run in place, and step for step what torch.optim does."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from onnxgrad.compiler.clipping import ROW, clip_coefficients, clip_factor, squared_norm_model
from onnxgrad.compiler.optimizers import BLOCK, AdamRule, SGDRule, UpdateRule, update_model
from onnxgrad.passes.aliasing import may_alias

BETAS, EPS, LR, DECAY = (0.8, 0.99), 1e-6, 0.03, 0.1
DTYPES = [np.float32, np.float64, np.float16]

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]

RULES: dict[str, tuple[UpdateRule, float, Make]] = {
    "sgd": (SGDRule(0.0, 0.0, False, False), 0.0, lambda p: torch.optim.SGD(p, LR)),
    "sgd, decay": (SGDRule(0.0, 0.0, False, True), DECAY, lambda p: torch.optim.SGD(p, LR, weight_decay=DECAY)),
    "momentum": (SGDRule(0.9, 0.0, False, False), 0.0, lambda p: torch.optim.SGD(p, LR, momentum=0.9)),
    "dampening, decay": (
        SGDRule(0.7, 0.4, False, True),
        DECAY,
        lambda p: torch.optim.SGD(p, LR, momentum=0.7, dampening=0.4, weight_decay=DECAY),
    ),
    "nesterov": (SGDRule(0.9, 0.0, True, False), 0.0, lambda p: torch.optim.SGD(p, LR, momentum=0.9, nesterov=True)),
    "nesterov, decay": (
        SGDRule(0.9, 0.0, True, True),
        DECAY,
        lambda p: torch.optim.SGD(p, LR, momentum=0.9, nesterov=True, weight_decay=DECAY),
    ),
    "adam": (AdamRule(BETAS, EPS, False, False), 0.0, lambda p: torch.optim.Adam(p, LR, BETAS, EPS)),
    "adam, decay": (AdamRule(BETAS, EPS, False, True), DECAY, lambda p: torch.optim.Adam(p, LR, BETAS, EPS, DECAY)),
    "adamw": (AdamRule(BETAS, EPS, True, True), DECAY, lambda p: torch.optim.AdamW(p, LR, BETAS, EPS, DECAY)),
    "adamw, no decay": (AdamRule(BETAS, EPS, True, False), 0.0, lambda p: torch.optim.AdamW(p, LR, BETAS, EPS, 0.0)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gemm", [False, True])
@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_every_output_may_be_written_over_its_input(
    name: str, blocked: bool, gemm: bool, dtype: type[np.floating]
) -> None:
    rule, element = RULES[name][0], ir.DataType.from_numpy(np.dtype(dtype))
    model = update_model(rule, element, blocked=blocked, gemm=gemm, clip_value=True, scaled=True)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    inputs = {value.name: value for value in model.graph.inputs}
    outputs = {str(value.name): value for value in model.graph.outputs}
    assert list(outputs) == [f"{tensor}.next" for tensor in ("parameter", *rule.states)]
    for output, value in outputs.items():
        assert may_alias(model.graph, inputs[output.removesuffix(".next")], value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gemm", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_blocks_and_in_place_change_no_bit(name: str, gemm: bool, dtype: type[np.floating]) -> None:
    rule, decay, _ = RULES[name]
    results = []
    for blocked in (False, True):
        for in_place in (False, True):
            update = Update(rule, dtype, blocked=blocked, gemm=gemm, in_place=in_place)
            generator = np.random.default_rng(3)
            tensors = {n: generator.uniform(0.1, 1.0, 2 * BLOCK).astype(dtype) for n in update.tensors}
            update.run(tensors, {**rule.coefficients(2, LR, decay), "grad_scale": 0.5})
            results.append(tensors)
    for other in results[1:]:
        for tensor, array in results[0].items():
            np.testing.assert_array_equal(other[tensor], array)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gemm", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_fifty_steps_agree_with_torch(name: str, gemm: bool, dtype: type[np.floating]) -> None:
    rule, decay, make = RULES[name]
    update = Update(rule, dtype, gemm=gemm, in_place=True)
    generator = np.random.default_rng(5)
    tensors = {n: np.zeros(257, dtype) for n in update.tensors}
    tensors["parameter"][:] = generator.standard_normal(257)
    theirs = torch.nn.Parameter(torch.from_numpy(tensors["parameter"].copy()))
    optimizer = make([theirs])
    for step in range(1, 51):
        tensors["gradient"][:] = generator.standard_normal(257) + tensors["parameter"]
        theirs.grad = torch.from_numpy(tensors["gradient"] * dtype(0.25))
        optimizer.step()
        update.run(tensors, {**rule.coefficients(step, LR, decay), "grad_scale": 0.25})
        tolerance = 1e-5 if dtype == np.float32 else 1e-12
        check(tensors["parameter"], theirs.detach().numpy(), tolerance)
    for state in rule.states:
        check(tensors[state], optimizer.state[theirs][state].numpy(), tolerance)


@pytest.mark.parametrize("name", RULES)
def test_float16_buffers_are_updated_in_float32(name: str) -> None:
    """Each step is that of float32 on the same values, rounded once: to the nearest float16."""
    rule, decay, _ = RULES[name]
    half = Update(rule, np.float16, in_place=True)
    single = Update(rule, np.float32, gemm=False, in_place=False)
    generator = np.random.default_rng(6)
    tensors = {n: np.zeros(257, np.float16) for n in half.tensors}
    tensors["parameter"][:] = generator.standard_normal(257)
    for step in range(1, 21):
        tensors["gradient"][:] = generator.uniform(0.5, 1.5, 257)
        expected = {n: array.astype(np.float32) for n, array in tensors.items()}
        scalars = {**rule.coefficients(step, LR, decay), "grad_scale": 1.0}
        single.run(expected, scalars)
        half.run(tensors, scalars)
        for state in rule.states:
            np.testing.assert_array_equal(tensors[state], expected[state].astype(np.float16))
        np.testing.assert_allclose(tensors["parameter"], expected["parameter"], rtol=2**-10, atol=LR * 2**-9)


def test_float16_follows_torch_to_its_rounding() -> None:
    rule, decay, make = RULES["adamw"]
    update = Update(rule, np.float16, in_place=True)
    generator = np.random.default_rng(8)
    tensors = {n: np.zeros(257, np.float16) for n in update.tensors}
    theirs = torch.nn.Parameter(torch.from_numpy(tensors["parameter"].copy()))
    optimizer = make([theirs])
    steps = 20
    for step in range(1, steps + 1):
        tensors["gradient"][:] = generator.uniform(0.5, 1.5, 257)
        theirs.grad = torch.from_numpy(tensors["gradient"].copy())
        optimizer.step()
        update.run(tensors, {**rule.coefficients(step, LR, decay), "grad_scale": 1.0})
    moved = LR * steps
    np.testing.assert_allclose(tensors["parameter"], theirs.detach().numpy(), atol=moved * 2**-9 + steps * 2**-12)


@pytest.mark.parametrize("value", [None, 0.4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_clipping_agrees_with_torch(dtype: type[np.floating], value: float | None) -> None:
    generator = np.random.default_rng(9)
    gradient = generator.standard_normal(100 * ROW).astype(dtype)
    scaled = torch.nn.Parameter(torch.zeros(100 * ROW, dtype=torch.float64))
    scaled.grad = torch.from_numpy(gradient.astype(np.float64) * 0.5)
    if value is not None:
        torch.nn.utils.clip_grad_value_([scaled], value)
    expected = float(torch.nn.utils.clip_grad_norm_([scaled], 2.0))

    scalars = clip_coefficients(grad_scale=0.5, value=value, factor=1.0)
    model = squared_norm_model(ir.DataType.from_numpy(np.dtype(dtype)), clip_value=value is not None)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (norms,) = session.run(None, as_feeds(session, {"gradient": gradient.reshape(100, ROW)}, scalars))
    norm = float(np.sqrt(norms.sum(dtype=np.float64))) * 0.5
    assert norm == pytest.approx(expected, rel=1e-6)

    rule = SGDRule(0.0, 0.0, False, False)
    update = Update(rule, dtype, clip_value=value is not None, in_place=True)
    tensors = {"parameter": np.zeros(100 * ROW, dtype), "gradient": gradient}
    clipping = clip_coefficients(grad_scale=0.5, value=value, factor=clip_factor(norm, 2.0))
    update.run(tensors, {**rule.coefficients(1, 1.0, 0.0), **clipping})
    assert scaled.grad is not None
    check(-tensors["parameter"], scaled.grad.numpy(), 1e-3 if dtype == np.float16 else 1e-5)


def test_small_gradients_are_not_scaled_up() -> None:
    assert clip_factor(0.5, 1.0) == 1.0
    assert clip_factor(0.0, 1.0) == 1.0
    assert clip_factor(4.0, 1.0) == pytest.approx(0.25, rel=1e-6)


class Update:
    """An update graph in ONNX Runtime, run on arrays that it overwrites: in their memory, or by a copy."""

    def __init__(
        self,
        rule: UpdateRule,
        dtype: type[np.floating],
        *,
        blocked: bool = False,
        gemm: bool = True,
        clip_value: bool = False,
        in_place: bool,
    ) -> None:
        element = ir.DataType.from_numpy(np.dtype(dtype))
        model = update_model(rule, element, blocked=blocked, gemm=gemm, clip_value=clip_value, scaled=True)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(
            ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.tensors = ("parameter", "gradient", *rule.states)
        self._shape = (-1, 1, BLOCK) if blocked else (1, -1)
        self._in_place = in_place

    def run(self, tensors: Mapping[str, np.ndarray], scalars: Mapping[str, float]) -> None:
        shaped = {name: array.reshape(self._shape) for name, array in tensors.items()}
        feeds = as_feeds(self.session, shaped, scalars)
        binding = self.session.io_binding()
        for name, array in feeds.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        names = [output.name for output in self.session.get_outputs()]
        for name in names:
            array = feeds[name.removesuffix(".next")]
            if self._in_place:
                binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            else:
                binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(binding)
        if not self._in_place:
            for name, result in zip(names, binding.copy_outputs_to_cpu(), strict=True):
                shaped[name.removesuffix(".next")][:] = result


def as_feeds(
    session: ort.InferenceSession, tensors: Mapping[str, np.ndarray], scalars: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """The tensors, and those of the scalars that the graph takes in the type and shape it takes them."""
    types = {"tensor(float)": np.float32, "tensor(double)": np.float64}
    taken = [value for value in session.get_inputs() if value.name not in tensors]
    return {**tensors, **{value.name: np.full(value.shape, scalars[value.name], types[value.type]) for value in taken}}


def check(actual: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Compare each element, relative to it and to the largest."""
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * float(np.abs(expected).max()))
