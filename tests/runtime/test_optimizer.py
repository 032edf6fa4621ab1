"""Optimizers on real sessions, step for step against torch.optim."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import onnxgrad
from onnxgrad.compiler.optimizers import BLOCK
from onnxgrad.passes.errors import Error, InputError
from onnxgrad.runtime.executor import session_options
from onnxgrad.runtime.optimizer import SGD, Adam, AdamW, Optimizer
from onnxgrad.runtime.session import Session

from . import mlp

Groups = Sequence[Mapping[str, Any]]

KINDS: dict[str, tuple[type[Optimizer], type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd by default": (SGD, torch.optim.SGD, {}),
    "sgd": (SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.05}),
    "momentum": (SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.3}),
    "nesterov": (SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "adam by default": (Adam, torch.optim.Adam, {}),
    "adam": (Adam, torch.optim.Adam, {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-5, "weight_decay": 0.1}),
    "adamw by default": (AdamW, torch.optim.AdamW, {}),
    "adamw": (AdamW, torch.optim.AdamW, {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-5, "weight_decay": 0.5}),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("kind", KINDS)
def test_fifty_steps_of_training_agree_with_torch(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    ours, theirs, options = KINDS[kind]
    session, module = mlp.session(dtype), mlp.module(dtype)
    train_both(session, ours(session, **options), module, theirs(module.parameters(), **options))
    compare(session, module, tolerance)


@pytest.mark.parametrize("kind", ["momentum", "adam", "adamw"])
def test_groups_agree_with_torch(kind: str) -> None:
    ours, theirs, options = KINDS[kind]
    session, module = mlp.session(), mlp.module()
    groups = [
        {"parameters": "*.bias", "weight_decay": 0.0},
        {"parameters": ["head.*", "*.bias"], "lr": 0.003},
    ]
    parameters = dict(module.named_parameters())
    reference = theirs(
        [
            {"params": [parameters["body.bias"], parameters["head.bias"]], "weight_decay": 0.0},
            {"params": [parameters["head.weight"]], "lr": 0.003},
            {"params": [parameters["body.weight"]]},
        ],
        **options,
    )
    train_both(session, ours(session, **options, groups=groups), module, reference)
    compare(session, module, 1e-5)


@pytest.mark.parametrize(("clip_norm", "clip_value"), [(0.05, None), (None, 0.01), (0.05, 0.02), (100.0, 100.0)])
def test_clipping_agrees_with_torch(clip_norm: float | None, clip_value: float | None) -> None:
    session, module = mlp.session(), mlp.module()
    optimizer, reference = SGD(session, lr=0.5, momentum=0.5), torch.optim.SGD(module.parameters(), 0.5, 0.5)

    def clip(parameters: list[torch.nn.Parameter]) -> float | None:
        if clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, clip_value)
        return None if clip_norm is None else float(torch.nn.utils.clip_grad_norm_(parameters, clip_norm))

    train_both(session, optimizer, module, reference, clip=clip, clip_norm=clip_norm, clip_value=clip_value)
    compare(session, module, 1e-5)


def test_grad_scale_and_rate_factor() -> None:
    session, module = mlp.session(), mlp.module()
    optimizer, reference = Adam(session, lr=0.1, eps=1e-3), torch.optim.Adam(module.parameters(), lr=0.05, eps=1e-3)
    for seed in range(3):
        batch = mlp.data(16, seed=seed)
        session.zero_grad()
        session.backward(batch)
        session.backward(batch)
        backward(module, reference, batch)
        norm = optimizer.step(rate_factor=0.5, grad_scale=0.5, clip_norm=1e3)
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        assert norm == pytest.approx(float(torch.nn.utils.get_total_norm(gradients)), rel=1e-5)
        reference.step()
    compare(session, module, 1e-5)


def test_a_large_model_is_updated_block_by_block() -> None:
    """Over a million parameters, in groups that fill no whole number of blocks."""
    session, layer = wide_session(1100, 1100)
    optimizer = AdamW(session, lr=0.01, groups=[{"parameters": "bias", "weight_decay": 0.0}])
    assert session.parameters.layout.lengths["float32"] % BLOCK == 0
    reference = torch.optim.AdamW([{"params": [layer.bias], "weight_decay": 0.0}, {"params": [layer.weight]}], lr=0.01)
    generator = np.random.default_rng(2)
    for _ in range(3):
        x = generator.standard_normal((4, 1100)).astype(np.float32)
        seed = generator.standard_normal((4, 1100)).astype(np.float32)
        session.zero_grad()
        session.backward({"x": x}, {"y": seed})
        reference.zero_grad()
        layer(torch.from_numpy(x)).backward(torch.from_numpy(seed))
        norm = optimizer.step(clip_norm=1.0)
        # PyTorch adds the squares of a million elements in float32, which costs it the fifth digit.
        gradients = [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]
        expected = float(torch.nn.utils.get_total_norm([gradient.double() for gradient in gradients]))
        assert norm == pytest.approx(expected, rel=1e-6)
        torch.nn.utils.clip_grads_with_norm_(layer.parameters(), 1.0, torch.tensor(expected))
        reference.step()
    compare(session, layer, 1e-5)


def test_how_many_threads_share_the_blocks_changes_no_bit() -> None:
    """Also with more threads than blocks, in one of the groups."""
    results = []
    for threads in (1, 2, 7):
        session, _ = wide_session(600, 500, threads=threads)
        optimizer = AdamW(session, lr=0.01, groups=[{"parameters": "bias", "weight_decay": 0.0}])
        generator = np.random.default_rng(4)
        for _ in range(2):
            for name, gradient in session.grads.items():
                session.grads[name] = generator.standard_normal(gradient.shape).astype(np.float32)
            optimizer.step(clip_value=1.0)
        results.append({name: np.array(array) for name, array in session.parameters.items()})
    for other in results[1:]:
        for name, array in results[0].items():
            np.testing.assert_array_equal(other[name], array)


def test_parameters_of_two_types_are_clipped_by_one_norm() -> None:
    session = mixed_session()
    optimizer = SGD(session, lr=1.0)
    before = {name: np.array(array) for name, array in session.parameters.items()}
    assert {array.dtype.name for array in before.values()} == {"float32", "float64"}
    session.backward({"x": np.array([3.0, 4.0], np.float32)}, {"y": np.ones(2, np.float32), "z": np.ones(2)})
    norm = optimizer.step(clip_norm=1.0)
    gradients = {name: np.array(array) for name, array in session.grads.items()}
    expected = np.sqrt(sum(float(np.square(array.astype(np.float64)).sum()) for array in gradients.values()))
    assert norm == pytest.approx(expected, rel=1e-6)
    for name, array in before.items():
        np.testing.assert_allclose(session.parameters[name], array - gradients[name] / expected, rtol=1e-5)


def test_half_precision_parameters_are_trained() -> None:
    session, module = mlp.session(torch.float16), mlp.module(torch.float32)
    optimizer, reference = SGD(session, lr=0.1, momentum=0.5), torch.optim.SGD(module.parameters(), 0.1, 0.5)
    for seed in range(10):
        batch = mlp.data(32, seed=seed)
        session.zero_grad()
        session.backward({"x": batch["x"].astype(np.float16), "labels": batch["labels"]})
        optimizer.step()
        backward(module, reference, batch)
        reference.step()
    assert session.parameters["body.weight"].dtype == np.float16
    compare(session, module, 1e-2)


def test_the_update_is_in_place() -> None:
    session = mlp.session()
    optimizer = AdamW(session)
    view, address = session.parameters["body.weight"], session.parameters.address("body.weight")
    before = view.copy()
    session.backward(mlp.data(8))
    optimizer.step()
    assert session.parameters.address("body.weight") == address == view.ctypes.data
    assert (view != before).all()


def test_the_padding_stays_zero() -> None:
    session = mlp.session()
    optimizer = AdamW(session, lr=0.1, groups=[{"parameters": "*.bias"}])
    for seed in range(3):
        session.backward(mlp.data(8, seed=seed))
        optimizer.step(clip_value=0.1)
    flat = session.parameters.read_flat("float32").copy()
    for slot in session.parameters.layout.slots.values():
        flat[slot.offset : slot.offset + slot.size] = 0
    assert not flat.any()


def test_gradients_are_left_to_zero_grad() -> None:
    session = mlp.session()
    optimizer = SGD(session)
    session.backward(mlp.data(8))
    before = {name: np.array(array) for name, array in session.grads.items()}
    optimizer.step(clip_norm=1e-3, clip_value=1e-4)
    for name, array in before.items():
        np.testing.assert_array_equal(session.grads[name], array)


def test_only_what_was_differentiated_changes() -> None:
    session = mlp.session(wrt=["head.*"])
    optimizer = AdamW(session, lr=0.1)
    session.backward(mlp.data(8))
    optimizer.step()
    exported = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in session.program.original(dict(session.parameters.items())).graph.initializer
    }
    initial = {name: parameter.detach().numpy() for name, parameter in mlp.module().named_parameters()}
    for name in mlp.NAMES:
        assert np.array_equal(exported[name], initial[name]) == name.startswith("body")


def test_the_gradient_of_an_input_is_no_parameter() -> None:
    session = mlp.session(wrt=["x", "head.*"], free_dims={"N": 4})
    optimizer = SGD(session, lr=1.0)
    session.backward(mlp.data(4))
    gradient, before = np.array(session.grads["head.bias"]), np.array(session.parameters["head.bias"])
    optimizer.step()
    np.testing.assert_allclose(session.parameters["head.bias"], before - gradient, rtol=1e-6)
    assert set(session.parameters) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("kind", ["momentum", "adamw"])
def test_a_state_continues_bit_for_bit(kind: str) -> None:
    ours, _, options = KINDS[kind]

    def made() -> tuple[Session, Optimizer]:
        session = mlp.session()
        return session, ours(session, **options)

    session, optimizer = made()
    train(session, optimizer, range(3))
    state, parameters = optimizer.state(), {name: np.array(array) for name, array in session.parameters.items()}
    assert int(state["step"]) == 3
    train(session, optimizer, range(3, 6))

    again, continued = made()
    again.parameters.update(parameters)
    continued.load_state(state)
    train(again, continued, range(3, 6))
    for name, array in session.parameters.items():
        np.testing.assert_array_equal(again.parameters[name], array)
    assert "body.weight/" + ("exp_avg" if kind == "adamw" else "momentum_buffer") in state


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: {n: a for n, a in s.items() if n != "head.bias/exp_avg"}, "lacks 'head.bias/exp_avg'"),
        (lambda s: {**s, "extra": s["step"]}, "unknown 'extra'"),
        (lambda s: {**s, "head.bias/exp_avg": np.ones(9, np.float32)}, "head.bias/exp_avg"),
        (lambda s: {**s, "head.bias/exp_avg": np.ones(3, np.float64)}, "float64"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(
    damage: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], message: str
) -> None:
    session = mlp.session()
    optimizer = AdamW(session)
    train(session, optimizer, range(2))
    state = optimizer.state()
    changed = {name: array + 1 for name, array in state.items()}
    with pytest.raises(InputError, match=message):
        optimizer.load_state(damage(changed))
    for name, array in optimizer.state().items():
        np.testing.assert_array_equal(array, state[name])


def test_a_norm_that_is_no_number_changes_nothing() -> None:
    session = mlp.session()
    optimizer = AdamW(session)
    session.backward(mlp.data(8))
    session.grads["body.bias"][2] = np.nan
    before = {name: np.array(array) for name, array in session.parameters.items()}
    with pytest.raises(Error, match="norm of the gradients is nan"):
        optimizer.step(clip_norm=1.0)
    for name, array in before.items():
        np.testing.assert_array_equal(session.parameters[name], array)
    assert int(optimizer.state()["step"]) == 0


def test_the_description_tells_kind_options_and_groups() -> None:
    session = mlp.session()
    assert AdamW(session).describe() == "AdamW(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01)"
    assert SGD(session, 0.5, groups=[{"parameters": "*.bias", "lr": 0.1}]).describe() == (
        "SGD(lr=0.5, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, "
        "groups=[{'parameters': '*.bias', 'lr': 0.1}])"
    )
    assert SGD(session, 0.5).learning_rate == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: AdamW(s, lr=-1.0), "lr is at least 0"),
        (lambda s: AdamW(s, lr=float("nan")), "lr is at least 0"),
        (lambda s: AdamW(s, betas=(0.9, 1.0)), "betas"),
        (lambda s: Adam(s, eps=-1e-8), "eps"),
        (lambda s: SGD(s, momentum=-0.1), "momentum"),
        (lambda s: SGD(s, nesterov=True), "Nesterov"),
        (lambda s: SGD(s, weight_decay=-1.0), "weight_decay"),
        (lambda s: SGD(s, groups=[{"parameters": "heads.*"}]), "'heads.\\*'; nearest: head"),
        (lambda s: SGD(s, groups=[{"parameters": "*", "momentum": 0.9}]), "momentum"),
        (lambda s: SGD(s, groups=[{"lr": 0.1}]), "A group has parameters"),
        (lambda s: SGD(s, groups=[{"parameters": "*", "lr": -0.1}]), "lr is at least 0"),
    ],
)
def test_nonsense_is_refused(make: Callable[[Session], Optimizer], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(mlp.session())


def test_the_older_of_two_optimizers_is_refused() -> None:
    session = mlp.session()
    older, newer = SGD(session), AdamW(session)
    session.backward(mlp.data(8))
    newer.step()
    with pytest.raises(InputError, match="optimizer made later"):
        older.step()


def test_a_view_taken_before_the_optimizer_stays_readable() -> None:
    session = mlp.session()
    view = session.parameters["body.weight"]
    expected = view.copy()
    SGD(session)
    np.testing.assert_array_equal(view, expected)


def train(session: Session, optimizer: Optimizer, seeds: range) -> None:
    for seed in seeds:
        session.zero_grad()
        session.backward(mlp.data(8, seed=seed))
        optimizer.step()


def train_both(
    session: Session,
    optimizer: Optimizer,
    module: torch.nn.Module,
    reference: torch.optim.Optimizer,
    *,
    clip: Callable[[list[torch.nn.Parameter]], float | None] = lambda parameters: None,
    **clipping: Any,
) -> None:
    """Fifty steps; PyTorch gets our gradients, so that the optimizers alone are compared."""
    parameters = dict(module.named_parameters())
    kind = session.parameters["head.bias"].dtype.type
    for seed in range(50):
        session.zero_grad()
        session.backward(mlp.data(16, seed=seed, dtype=kind))
        for name, parameter in parameters.items():
            parameter.grad = torch.from_numpy(np.array(session.grads[name]))
        expected = clip(list(parameters.values()))
        norm = optimizer.step(**clipping)
        assert norm == (None if expected is None else pytest.approx(expected, rel=1e-5))
        reference.step()


def backward(module: torch.nn.Module, reference: torch.optim.Optimizer, batch: Mapping[str, np.ndarray]) -> None:
    reference.zero_grad()
    logits = module(torch.from_numpy(batch["x"]))
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch["labels"])).backward()


def compare(session: Session, module: torch.nn.Module, tolerance: float) -> None:
    """Hold each element against PyTorch's, relative to it and to the largest of its parameter."""
    for name, parameter in module.named_parameters():
        expected = parameter.detach().numpy()
        largest = float(np.abs(expected).max())
        np.testing.assert_allclose(
            session.parameters[name], expected, rtol=tolerance, atol=tolerance * largest, err_msg=name
        )


def wide_session(rows: int, columns: int, *, threads: int = 0) -> tuple[Session, torch.nn.Linear]:
    """y = x Wᵀ + b with the seed of y fed, and the same layer in PyTorch."""
    torch.manual_seed(1)
    layer = torch.nn.Linear(columns, rows)
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 18]> wide (float[N,{columns}] x) => (float[N,{rows}] y) '
        "{ y = Gemm <transB = 1> (x, weight, bias) }"
    )
    for name, parameter in layer.named_parameters():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(parameter.detach().numpy(), name))
    program, options = onnxgrad.compile(proto, mode="accumulate"), session_options(threads)
    return program.session(providers=["CPUExecutionProvider"], options=options), layer


def mixed_session() -> Session:
    """Two products with weights, one in single and one in double precision."""
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> mixed (float[2] x) => (float[2] y, double[2] z) '
        '<float[2] "a.weight" = {1.0, 2.0}, double[2] "b.weight" = {3.0, 4.0}> '
        '{ y = Mul (x, "a.weight")  d = Cast <to = 11> (x)  z = Mul (d, "b.weight") }'
    )
    return onnxgrad.compile(proto, mode="accumulate").session(providers=["CPUExecutionProvider"])
