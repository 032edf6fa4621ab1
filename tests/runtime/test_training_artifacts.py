"""Artifacts and the loop of onnxruntime-training's users: the same numbers as PyTorch and as onnxgrad's own loop."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

import onnxgrad
import onnxgrad.training as api
from onnxgrad import artifacts
from tests.runtime import mlp

DIGITS = Path(__file__).parents[2] / "models"


def make(folder: Path, model: onnx.ModelProto | str, **options: object) -> Path:
    settings = {"loss": artifacts.LossType.CrossEntropyLoss, "optimizer": artifacts.OptimType.AdamW, **options}
    artifacts.generate_artifacts(model, artifact_directory=folder, **settings)
    return folder


def load(folder: Path, checkpoint: str = "checkpoint") -> tuple[api.CheckpointState, api.Module, api.Optimizer]:
    state = api.CheckpointState.load_checkpoint(folder / checkpoint)
    module = api.Module(folder / "training_model.onnx", state, folder / "eval_model.onnx")
    return state, module, api.Optimizer(folder / "optimizer_model.onnx", module)


def train(module: api.Module, optimizer: api.Optimizer, steps: Sequence[int]) -> list[float]:
    losses = []
    module.train()
    for step in steps:
        batch = mlp.data(16, seed=step)
        losses.append(float(module(batch["x"], batch["labels"])))
        optimizer.step()
        module.lazy_reset_grad()
    return losses


class HuggingFaceAdamW:
    """AdamW as transformers had it and onnxruntime-training has it: epsilon comes before the correction of the bias."""

    def __init__(self, parameters: Sequence[torch.Tensor], lr: float) -> None:
        self.parameters, self.lr, self.count = list(parameters), lr, 0
        self.means = [[torch.zeros_like(p), torch.zeros_like(p)] for p in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        self.count += 1
        for parameter, means in zip(self.parameters, self.means, strict=True):
            assert parameter.grad is not None
            means[0] = 0.9 * means[0] + 0.1 * parameter.grad
            means[1] = 0.999 * means[1] + 0.001 * parameter.grad**2
            size = self.lr * (1 - 0.999**self.count) ** 0.5 / (1 - 0.9**self.count)
            parameter -= size * means[0] / (means[1].sqrt() + 1e-6)


@pytest.mark.parametrize("kind", artifacts.OptimType)
def test_a_training_is_that_of_pytorch(kind: artifacts.OptimType, tmp_path: Path) -> None:
    state, module, optimizer = load(make(tmp_path, mlp.model(), optimizer=kind))
    optimizer.set_learning_rate(0.01)
    losses = train(module, optimizer, range(10))
    network = mlp.module()
    peer = HuggingFaceAdamW if kind is artifacts.OptimType.AdamW else torch.optim.SGD
    torch_optimizer = peer(list(network.parameters()), lr=0.01)
    for step, loss in enumerate(losses):
        batch = {name: torch.tensor(array) for name, array in mlp.data(16, seed=step).items()}
        expected = torch.nn.functional.cross_entropy(network(batch["x"]), batch["labels"])
        network.zero_grad()
        expected.backward()
        torch_optimizer.step()
        assert loss == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in network.named_parameters():
        np.testing.assert_allclose(state.parameters[name].data, parameter.detach().numpy(), rtol=2e-4, atol=2e-5)
    held_out = mlp.data(32, seed=99)
    module.eval()
    with torch.no_grad():
        scores = network(torch.tensor(held_out["x"]))
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor(held_out["labels"]))
    assert float(module(held_out["x"], held_out["labels"])) == pytest.approx(expected.item(), rel=1e-4)


def digits(steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    data = np.load(DIGITS / "digits.npz")
    picks = [np.random.default_rng(step).integers(0, len(data["train_image"]), 64) for step in range(steps)]
    return [(data["train_image"][pick], data["train_labels"][pick]) for pick in picks]


def test_digits_in_both_spellings(tmp_path: Path) -> None:
    _, module, optimizer = load(make(tmp_path, str(DIGITS / "digits.onnx"), optimizer=artifacts.OptimType.SGD))
    optimizer.set_learning_rate(0.05)
    session = onnxgrad.compile(DIGITS / "digits.onnx", loss="cross_entropy", mode="accumulate").session()
    own = onnxgrad.SGD(session, lr=0.05)
    for images, labels in digits(10):
        loss = float(module(images, labels))
        optimizer.step()
        module.lazy_reset_grad()
        expected = float(session.backward({"image": images, "labels": labels})["loss"])
        own.step()
        session.zero_grad()
        assert loss == pytest.approx(expected, rel=1e-6)


def test_digits_are_learnt_and_exported(tmp_path: Path) -> None:
    _, module, optimizer = load(make(tmp_path, str(DIGITS / "digits.onnx")))
    optimizer.set_learning_rate(3e-3)
    for images, labels in digits(50):
        module.train()
        module(images, labels)
        optimizer.step()
        module.lazy_reset_grad()
    data = np.load(DIGITS / "digits.npz")
    module.eval()
    assert float(module(data["test_image"], data["test_labels"])) < 0.7
    module.export_model_for_inferencing(tmp_path / "tuned.onnx", ["logits"])
    tuned = ort.InferenceSession(tmp_path / "tuned.onnx", providers=["CPUExecutionProvider"])
    (logits,) = tuned.run(["logits"], {"image": data["test_image"]})
    assert (logits.argmax(axis=1) == data["test_labels"]).mean() > 0.75


def test_the_loop_of_the_migration_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (DIGITS.parent / "docs" / "from-onnxruntime-training.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "models").symlink_to(DIGITS)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code, names)
    assert float(names["held_out"]) < 0.4
    assert (tmp_path / "out" / "tuned.onnx").exists()


def test_plain_onnx_runtime_runs_the_files(tmp_path: Path) -> None:
    make(tmp_path, mlp.model(), prefix="mlp_")
    names = ["mlp_checkpoint", "mlp_eval_model.onnx", "mlp_optimizer_model.onnx", "mlp_training_model.onnx"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    batch = mlp.data(8)
    for name in names[1:]:
        model = onnx.load(tmp_path / name)
        onnx.checker.check_model(model, full_check=True)
        assert {entry.domain for entry in model.opset_import} == {""}
    evaluation = ort.InferenceSession(tmp_path / names[1], providers=["CPUExecutionProvider"])
    training = ort.InferenceSession(tmp_path / names[3], providers=["CPUExecutionProvider"])
    buffers = {f"{name}.grad.buffer": np.zeros_like(p.detach().numpy()) for name, p in mlp.module().named_parameters()}
    (loss,) = evaluation.run(None, batch)
    first, gradient = training.run(["loss", "head.bias.grad"], {**batch, **buffers})
    assert loss == pytest.approx(first)
    network = mlp.module()
    torch.nn.functional.cross_entropy(network(torch.tensor(batch["x"])), torch.tensor(batch["labels"])).backward()
    np.testing.assert_allclose(gradient, network.head.bias.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_gradients_accumulate_until_they_are_reset(tmp_path: Path) -> None:
    state, module, _ = load(make(tmp_path, mlp.model()))
    batch = mlp.data(8)
    module(batch["x"], batch["labels"])
    once = np.array(state.parameters["head.weight"].grad)
    module(batch["x"], batch["labels"])
    np.testing.assert_allclose(state.parameters["head.weight"].grad, 2 * once, rtol=1e-6)
    module.lazy_reset_grad()
    np.testing.assert_allclose(state.parameters["head.weight"].grad, 2 * once, rtol=1e-6)
    module(batch["x"], batch["labels"])
    np.testing.assert_array_equal(state.parameters["head.weight"].grad, once)


def test_a_checkpoint_resumes_to_the_bit(tmp_path: Path) -> None:
    state, module, optimizer = load(make(tmp_path, mlp.model()))
    state.properties["epoch"] = 3
    train(module, optimizer, range(4))
    api.CheckpointState.save_checkpoint(state, tmp_path / "later", include_optimizer_state=True)
    expected = train(module, optimizer, range(4, 8))
    again, module, optimizer = load(tmp_path, "later")
    assert (again.properties, optimizer.steps) == ({"epoch": 3}, 4)
    assert train(module, optimizer, range(4, 8)) == expected


def test_only_what_requires_a_gradient_is_trained(tmp_path: Path) -> None:
    state, module, optimizer = load(make(tmp_path, mlp.model(), frozen_params=["body.weight", "body.bias"]))
    assert [name for name, _ in state.parameters] == ["head.weight", "head.bias"]
    assert module.get_parameters_size() == mlp.CLASSES * (mlp.HIDDEN + 1)
    named = make(tmp_path, mlp.model(), requires_grad=["head.bias"], optimizer=None)
    assert len(api.CheckpointState.load_checkpoint(named / "checkpoint").parameters) == 1
    train(module, optimizer, range(2))


def test_parameters_go_to_a_buffer_and_back(tmp_path: Path) -> None:
    state, module, _ = load(make(tmp_path, mlp.model()))
    buffer = module.get_contiguous_parameters().numpy()
    module.copy_buffer_to_parameters(ort.OrtValue.ortvalue_from_numpy(2 * buffer))
    expected = 2 * mlp.module().head.weight.detach().numpy()
    np.testing.assert_array_equal(state.parameters["head.weight"].data, expected)
    state.parameters["head.weight"].data = np.zeros_like(expected)
    assert not state.parameters["head.weight"].data.any()


def test_additional_outputs_follow_the_loss(tmp_path: Path) -> None:
    _, module, _ = load(make(tmp_path, mlp.model(), additional_output_names=["logits", "a"]))
    batch = mlp.data(8)
    loss, logits, activations = module(batch["x"], batch["labels"])
    assert module.output_names() == ["loss", "logits", "a"]
    assert (loss.shape, logits.shape, activations.shape) == ((), (8, mlp.CLASSES), (8, mlp.HIDDEN))
    assert [each.shape for each in module.eval()(batch["x"], batch["labels"])] == [(), logits.shape, activations.shape]


@pytest.mark.parametrize(
    ("loss", "function"),
    [
        (artifacts.LossType.MSELoss, torch.nn.functional.mse_loss),
        (artifacts.LossType.L1Loss, torch.nn.functional.l1_loss),
        (artifacts.LossType.BCEWithLogitsLoss, torch.nn.functional.binary_cross_entropy_with_logits),
        (onnxgrad.losses.Huber(), torch.nn.functional.huber_loss),
    ],
)
def test_losses(loss: object, function: object, tmp_path: Path) -> None:
    state, module, _ = load(make(tmp_path, mlp.model(), loss=loss))
    x, target = mlp.data(8)["x"], np.random.default_rng(1).random((8, mlp.CLASSES), np.float32)
    network = mlp.module()
    expected = function(network(torch.tensor(x)), torch.tensor(target))
    expected.backward()
    assert float(module(x, target)) == pytest.approx(expected.item(), rel=1e-5)
    grad = state.parameters["body.weight"].grad
    np.testing.assert_allclose(grad, network.body.weight.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_the_learning_rate_rises_and_falls(tmp_path: Path) -> None:
    _, module, optimizer = load(make(tmp_path, mlp.model()))
    assert optimizer.get_learning_rate() == pytest.approx(0.001)
    scheduler = api.LinearLRScheduler(optimizer, 2, 6, 0.4)
    rates = []
    for step in range(8):
        scheduler.step()
        rates.append(optimizer.get_learning_rate())
        train(module, optimizer, [step])
    np.testing.assert_allclose(rates, [0.0, 0.2, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0], atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ort_format": True}, "ort_format is of onnxruntime-training's own formats"),
        ({"custom_op_library": "x.so"}, "custom_op_library is of onnxruntime-training's own formats"),
        ({"nominal_checkpoint": True}, "the training model has the parameters' first values itself"),
        ({"requires_grad": ["head.bias"], "frozen_params": ["head.bias"]}, "'head.bias' is in requires_grad and in"),
        ({"optimizer": "AdamW"}, "the optimizer is an OptimType or None, not 'AdamW'"),
        ({"loss": None}, "'logits' has more than one element; give a `loss`"),
        ({"loss_input_names": ["logits", "a"]}, "a loss takes one output"),
        ({"additional_output_names": ["nothing"]}, "the model has no value 'nothing'"),
        ({"requires_grad": ["nothing"]}, "nothing in the model matches 'nothing'"),
    ],
)
def test_a_mistake_is_one_error_and_writes_nothing(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(onnxgrad.Error) as raised:
        make(tmp_path, mlp.model(), **options)
    assert message in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    for folder in (whole, part):
        folder.mkdir()
    make(whole, mlp.model())
    make(part, mlp.model(), requires_grad=["head.bias"])
    state = api.CheckpointState.load_checkpoint(whole / "checkpoint")
    with pytest.raises(onnxgrad.InputError, match="checkpoint is of another model"):
        api.Module(part / "training_model.onnx", state)
    module = api.Module(whole / "training_model.onnx", state)
    with pytest.raises(onnxgrad.InputError, match="is no optimizer model for the parameters of this module"):
        api.Optimizer(part / "optimizer_model.onnx", module)
    with pytest.raises(onnxgrad.InputError, match="There is no eval model"):
        module.eval()(np.zeros((1, 5), np.float32), np.zeros(1, np.int64))
    with pytest.raises(onnxgrad.InputError, match="takes 2 inputs, x, labels, not 1"):
        module.train()(np.zeros((1, 5), np.float32))
    with pytest.raises(onnxgrad.InputError, match="no readable checkpoint"):
        api.CheckpointState.load_checkpoint(whole / "training_model.onnx")
