"""The trainer: what a step is, what it reports, and what it says when something is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

import onnxgrad
from onnxgrad.compiler import schedules
from onnxgrad.passes.errors import Error, InputError
from onnxgrad.runtime.batches import Batches
from onnxgrad.runtime.metrics import accuracy
from onnxgrad.runtime.optimizer import SGD, AdamW
from onnxgrad.runtime.session import Session
from onnxgrad.runtime.trainer import StepReport, Trainer

from . import mlp


def parameters(session: Session) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in session.parameters.items()}


def batches(count: int, size: int = 8) -> list[dict[str, np.ndarray]]:
    return [mlp.data(size, seed=seed) for seed in range(count)]


def joined(some: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([batch[name] for batch in some]) for name in some[0]}


def test_training_is_that_of_pytorch() -> None:
    """The same data, loss, optimizer, schedule and clipping; gradients of PyTorch's own."""
    session, module = mlp.session(torch.float64), mlp.module(torch.float64)
    some = [mlp.data(8, seed=seed, dtype=np.float64) for seed in range(6)]
    trainer = Trainer(session, AdamW(session, 0.05), clip_norm=0.3, schedule=schedules.linear(18, warmup=4))
    history = trainer.fit(some, epochs=3)

    reference = torch.optim.AdamW(module.parameters(), 0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(reference, schedules.linear(18, warmup=4))
    for report, batch in zip(history.steps, some * 3, strict=True):
        reference.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            module(torch.from_numpy(batch["x"])), torch.from_numpy(batch["labels"])
        )
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 0.3)
        assert report.loss == pytest.approx(loss.item(), rel=1e-8)
        assert report.grad_norm == pytest.approx(float(norm), rel=1e-8)
        assert report.learning_rate == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12)
        reference.step()
        scheduler.step()
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(session.parameters[name], parameter.detach().numpy(), rtol=1e-7, atol=1e-9)
    assert [report.step for report in history.steps] == list(range(1, 19))
    assert [report.epoch for report in history.steps] == [0] * 6 + [1] * 6 + [2] * 6


@pytest.mark.parametrize("clipping", [{}, {"clip_norm": 0.2}, {"clip_value": 0.02}])
def test_micro_batches_equal_a_big_batch(clipping: dict[str, float]) -> None:
    some = batches(6)
    small, big = mlp.session(torch.float64), mlp.session(torch.float64)
    double = [{"x": batch["x"].astype(np.float64), "labels": batch["labels"]} for batch in some]
    one = Trainer(small, AdamW(small, 0.05), accumulate=3, **clipping).fit(double)
    other = Trainer(big, AdamW(big, 0.05), **clipping).fit([joined(double[:3]), joined(double[3:])])
    assert len(one.steps) == len(other.steps) == 2
    for name, array in parameters(big).items():
        np.testing.assert_allclose(small.parameters[name], array, rtol=1e-9, atol=1e-12)
    for mine, theirs in zip(one.steps, other.steps, strict=True):
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-9)
        assert mine.grad_norm == (None if theirs.grad_norm is None else pytest.approx(theirs.grad_norm, rel=1e-9))


def test_the_micro_batches_that_are_left_make_a_step() -> None:
    session = mlp.session()
    history = Trainer(session, SGD(session, 0.1), accumulate=4).fit(batches(6), epochs=2)
    assert len(history.steps) == 4
    reference = mlp.session()
    optimizer = SGD(reference, 0.1)
    for group in (batches(6)[:4], batches(6)[4:]) * 2:
        reference.zero_grad()
        for batch in group:
            reference.backward(batch)
        optimizer.step(grad_scale=1 / len(group))
    for name, array in parameters(reference).items():
        np.testing.assert_array_equal(session.parameters[name], array)


def test_it_learns() -> None:
    session = mlp.session()
    data, validation = Batches(mlp.data(256), 32, shuffle=True), Batches(mlp.data(128, seed=9), 32)
    trainer = Trainer(session, AdamW(session, 0.02), metrics={"accuracy": accuracy("logits")})
    before = trainer.evaluate(validation)
    history = trainer.fit(data, epochs=15, validation=validation)
    assert len(history.evaluations) == 15
    assert [step for step, _ in history.evaluations] == list(range(8, 121, 8))
    last = history.evaluations[-1][1]
    assert last == trainer.evaluate(validation)
    assert last.loss is not None
    assert before.loss is not None
    assert last.loss < 0.5 * before.loss
    assert last.metrics["accuracy"] > 0.9
    assert history.steps[-1].metrics["accuracy"] > 0.9


def test_evaluation_is_the_mean_over_samples() -> None:
    session = mlp.session()
    trainer = Trainer(session, SGD(session), metrics={"accuracy": accuracy("logits")})
    data = mlp.data(20)
    whole = trainer.evaluate([data])
    parts = trainer.evaluate(Batches(data, 7))
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.metrics["accuracy"] == pytest.approx(whole.metrics["accuracy"], rel=1e-12)
    logits = session.run(data)["logits"]
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(data["labels"]))
    assert whole.loss == pytest.approx(float(expected), rel=1e-6)
    assert whole.metrics["accuracy"] == np.mean(logits.argmax(axis=1) == data["labels"])


def test_evaluation_changes_nothing() -> None:
    session = mlp.session()
    before = parameters(session)
    Trainer(session, SGD(session)).evaluate(batches(2))
    for name, array in before.items():
        np.testing.assert_array_equal(session.parameters[name], array)
        assert not session.grads[name].any()


def test_reports_come_after_each_step() -> None:
    session = mlp.session()
    seen: list[tuple[int, int]] = []

    def on_step(report: StepReport) -> None:
        seen.append((report.step, trainer.progress.step))

    trainer = Trainer(session, SGD(session), on_step=on_step)
    history = trainer.fit(batches(3))
    assert seen == [(1, 1), (2, 2), (3, 3)]
    assert history.steps[0].grad_norm is None


def test_fit_counts_the_epochs_of_all_calls() -> None:
    session = mlp.session()
    trainer = Trainer(session, SGD(session))
    assert len(trainer.fit(batches(3), epochs=2).steps) == 6
    assert trainer.fit(batches(3), epochs=2).steps == []
    assert [report.epoch for report in trainer.fit(batches(3), epochs=3).steps] == [2, 2, 2]


def test_each_epoch_has_an_order_of_its_own() -> None:
    session = mlp.session()
    epochs: list[int] = []

    class Recorded(Batches):
        def set_epoch(self, epoch: int) -> None:
            epochs.append(epoch)
            super().set_epoch(epoch)

    trainer = Trainer(session, SGD(session))
    trainer.fit(Recorded(mlp.data(16), 8, shuffle=True), epochs=2)
    trainer.fit(Recorded(mlp.data(16), 8, shuffle=True), epochs=4)
    assert epochs == [0, 1, 2, 3]


def test_ort_values_as_batches() -> None:
    session, reference = mlp.session(), mlp.session()
    values = [{name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in b.items()} for b in batches(2)]
    trainer = Trainer(session, SGD(session, 0.1))
    losses = [report.loss for report in trainer.fit(values).steps]
    expected = Trainer(reference, SGD(reference, 0.1))
    assert losses == [report.loss for report in expected.fit(batches(2)).steps]
    assert trainer.evaluate(values) == expected.evaluate(batches(2))


def test_nan_in_the_data_is_reported_with_the_step_and_changes_nothing() -> None:
    session = mlp.session()
    some = batches(5)
    some[3]["x"][2, 1] = np.nan
    some[3]["x"][4, 0] = np.inf
    states: list[dict[str, np.ndarray]] = []
    trainer = Trainer(session, AdamW(session, 0.1), on_step=lambda report: states.append(parameters(session)))
    with pytest.raises(Error, match=r"Step 4: The loss is nan; input 'x' has 2 elements that are NaN or infinite"):
        trainer.fit(some)
    assert len(states) == 3
    for name, array in states[-1].items():
        np.testing.assert_array_equal(session.parameters[name], array)
    assert trainer.progress.step == 3
    assert len(trainer.fit([*some[:3], some[4]]).steps) == 1


def test_divergence_is_told_from_bad_data() -> None:
    session = mlp.session()
    trainer = Trainer(session, SGD(session, 1e38))
    with pytest.raises(Error, match=r"Step \d+: The loss is (nan|inf); the inputs are finite, so the training div"):
        trainer.fit(batches(5))


def test_a_gradient_norm_that_is_no_number_names_the_step() -> None:
    session = mlp.session()
    trainer = Trainer(session, SGD(session), clip_norm=1.0, metrics={"poison": poison(session)})
    before = parameters(session)
    with pytest.raises(Error, match="Step 1: The norm of the gradients is nan"):
        trainer.fit(batches(1))
    for name, array in before.items():
        np.testing.assert_array_equal(session.parameters[name], array)


def poison(session: Session) -> Any:
    def metric(outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> float:
        session.grads["head.bias"][0] = np.nan
        return 0.0

    return metric


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"x": np.zeros((8, 4), np.float32), "labels": np.zeros(8, np.int64)}, "axis 1 is 4, not 5"),
        ({"x": np.zeros((8, 5), np.float32), "labels": np.zeros(7, np.int64)}, "'x' and 'labels' do not fit"),
        ({"x": np.zeros((8, 5)), "labels": np.zeros(8, np.int64)}, "float64"),
        ({"x": np.zeros((8, 5), np.float32)}, "Missing input"),
        ({"x": np.zeros((8, 5), np.float32), "labels": np.full(8, 7)}, ""),
        ([np.zeros((8, 5), np.float32)], "A batch is a dict of arrays"),
    ],
)
def test_a_batch_that_does_not_fit_names_the_step(batch: Any, message: str) -> None:
    session = mlp.session()
    trainer = Trainer(session, SGD(session, 0.1))
    with pytest.raises(Error, match=f"^Step 3: .*{message}"):
        trainer.fit([*batches(2), batch])
    reference = mlp.session()
    Trainer(reference, SGD(reference, 0.1)).fit(batches(2))
    for name, array in parameters(reference).items():
        np.testing.assert_array_equal(session.parameters[name], array)
    with pytest.raises(Error, match=f"^Evaluation, batch 2: .*{message}"):
        trainer.evaluate([*batches(1), batch])


def test_an_exhausted_iterator_is_told() -> None:
    session = mlp.session()

    def once() -> Iterator[dict[str, np.ndarray]]:
        yield from batches(2)

    with pytest.raises(InputError, match="Epoch 2 has no batches"):
        Trainer(session, SGD(session)).fit(once(), epochs=2)
    with pytest.raises(InputError, match="no batches to evaluate"):
        Trainer(session, SGD(session)).evaluate([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "accumulate is at least 1"),
        ({"checkpoint_every": 5}, "needs a path"),
        ({"checkpoint": "x.safetensors", "checkpoint_every": 0}, "at least 1"),
        ({"checkpoint": "no/such/folder/x.safetensors"}, "There is no folder for the checkpoint"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], message: str) -> None:
    session = mlp.session()
    with pytest.raises(InputError, match=message):
        Trainer(session, SGD(session), **options)


@pytest.mark.parametrize("clipping", [{"clip_norm": 0.0}, {"clip_value": -1.0}])
def test_clipping_to_nothing_is_refused(clipping: dict[str, float]) -> None:
    session = mlp.session()
    with pytest.raises(InputError, match=f"{next(iter(clipping))} is more than 0"):
        Trainer(session, SGD(session), **clipping).fit(batches(1))


def test_a_program_without_a_loss_is_refused() -> None:
    session = onnxgrad.compile(mlp.model(), mode="accumulate").session()
    with pytest.raises(InputError, match="no loss to train on"):
        Trainer(session, SGD(session))
