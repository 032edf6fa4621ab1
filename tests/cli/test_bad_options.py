"""Options that make no sense: exit code 2, one clear error on stderr, no stack trace, and nothing written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxgrad
from tests.cli.running import refused, run
from tests.compiler.forward_models import mlp, parse, random
from tests.compiler.test_load import write

COMPILE_OPTIONS: dict[str, tuple[list[str], str]] = {
    "wrt": (["--wrt", "fc1.wieght"], "nothing in the model matches 'fc1.wieght'; nearest: fc1.weight"),
    "output": (["--output-name", "logit"], "nothing in the model matches 'logit'; nearest: logits"),
    "loss": (["--loss", "crossentropy"], "There is no loss 'crossentropy'; nearest: cross_entropy"),
    "loss file": (["--loss", "gone.onnx"], "There is no file gone.onnx"),
    "loss option": (["--loss", "mse", "--loss-option", "beta=1"], "The loss 'mse' has no option 'beta'"),
    "loss option's value": (
        ["--loss", "cross_entropy", "--loss-option", "label_smoothing=much"],
        "label_smoothing takes a value of type float, not 'much'",
    ),
    "loss option without a loss": (["--loss-option", "beta=1"], "--loss-option needs --loss"),
    "dim": (["--free-dim", "bach=3"], "no input has a symbolic dim 'bach'; nearest: batch"),
    "size": (["--free-dim", "batch=0"], "batch=0 is no size"),
    "a size twice": (["--free-dim", "batch=3", "--free-dim", "batch=4"], "batch is given twice"),
    "a size beyond all tensors": (["--free-dim", f"batch={10**20}"], f"batch={10**20} is no size"),
    "assumed dim": (["--assume-dim", "bach=3"], "assume_dims: no input has a symbolic dim 'bach'; nearest: batch"),
    "assumed size": (["--assume-dim", "batch=0"], "assume_dims: batch=0 is no size"),
    "chunk": (["--loss", "cross_entropy", "--loss-option", "chunk=0"], "chunk is a number of samples, at least 1"),
    "factor": (["--scale-gradient", "hidden=nan"], "the factor of 'hidden' is a finite number, not nan"),
    "factor without a number": (["--scale-gradient", "hidden=much"], "hidden=much: the factor is a number"),
    "value to scale": (["--scale-gradient", "hiden=2"], "nothing in the model matches 'hiden'"),
    "budget": (["--memory-budget", "much"], "'much' is no amount of memory; write 4GB"),
    "budget that is too small": (
        ["--memory-budget", "10", "--assume-dim", "batch=4"],
        "down to 10 bytes; the least that is possible is ",
    ),
    "checkpoint": (["--checkpoint", "0"], "at least 1, not 0"),
    "checkpoint without a name": (["--checkpoint", ""], "The checkpoint '' is no value"),
    "residual": (["--split", "--residuals", "hiden"], "'hiden' is no value of the forward part"),
    "residuals without split": (["--residuals", "min"], "--residuals needs --split"),
    "split and accumulate": (["--split", "--mode", "accumulate"], "--split gives fresh gradients"),
    "mode": (["--mode", "train"], 'mode is "grad" or "accumulate", not \'train\''),
    "opset": (["--opset", "17"], "opset is 18 to 26, not 17"),
    "provider to tune for": (["--tune", "--provider", "Abacus"], "'Abacus' is no execution provider"),
    "provider without tuning": (["--provider", "CPUExecutionProvider"], "give --tune too"),
}


@pytest.mark.parametrize("case", COMPILE_OPTIONS)
def test_options_of_compile(case: str, model: Path, unchanged) -> None:
    options, message = COMPILE_OPTIONS[case]
    assert message in refused(unchanged(lambda: run("compile", model, *options)))


TRANSFORM_OPTIONS: dict[str, tuple[list[str], str]] = {
    "no seeds": (["vjp", "--num-seeds", "0"], "a number or a name, and at least 1, not 0"),
    "seeds that are no number": (["vjp", "--num-seeds", "1.5"], "at least 1, not '1.5'"),
    "seeds without a name": (["vjp", "--num-seeds", ""], "at least 1, not ''"),
    "seeds of another kind": (["jvp", "--num-seeds", "3"], "--num-seeds is for vjp, not for jvp"),
    "loss": (["hessian", "--loss", "mse", "--loss-option", "beta=1"], "The loss 'mse' has no option 'beta'"),
    "loss of another kind": (["jvp", "--loss", "mse"], "--loss is for value_and_grad"),
    "opset": (["jvp", "--opset", "99"], "opset is 18 to 26, not 99"),
    "dim": (["jvp", "--free-dim", "bach=3"], "no input has a symbolic dim 'bach'; nearest: batch"),
    "no loss": (["hvp"], "hvp needs an output of one element"),
}


@pytest.mark.parametrize("case", TRANSFORM_OPTIONS)
def test_options_of_transform(case: str, model: Path, unchanged) -> None:
    (kind, *options), message = TRANSFORM_OPTIONS[case]
    assert message in refused(unchanged(lambda: run("transform", kind, model, *options)))


def test_a_tuning_cache_that_is_none(tmp_path: Path, unchanged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXGRAD_CACHE_DIR", str(tmp_path))
    (tmp_path / "tuning.json").write_text("{")
    graph = "g (float[2, 3, 8] x) => (float[2, 4, 6] y) { y = Conv (x, w) }"
    path = write(tmp_path, parse(graph, {"w": random(4, 3, 3)}))
    assert "tuning.json does not hold what was measured" in refused(unchanged(lambda: run("compile", path, "--tune")))


@pytest.mark.parametrize("option", ["batch", "batch=", "batch=many", "=3"])
def test_options_that_are_no_pairs(option: str, model: Path, unchanged) -> None:
    finished = unchanged(lambda: run("compile", model, "--free-dim", option))
    assert finished.code == 2
    assert "--free-dim" in finished.err
    assert "Traceback" not in finished.err


def test_options_of_train(program: Path, data: Path, tmp_path: Path, unchanged) -> None:
    command = ("train", program, "--data", data, "-o", tmp_path / "tuned.onnx")
    without_loss = tmp_path / "plain.train.onnx"
    onnxgrad.compile(mlp()).save(without_loss)
    cases = [
        ((*command, "--provider", "GPU"), "'GPU' is no execution provider"),
        (("train", without_loss, *command[2:]), "has no loss to train on; compile it with --loss"),
        ((*command, "--momentum", "0.9"), "--momentum is for --optimizer sgd; adamw has none"),
        ((*command, "--lr", "inf"), "lr is at least 0 and finite, not inf"),
        ((*command, "--checkpoint", data), "is no readable checkpoint"),
        ((*command, "--clip-norm", "-1"), "clip"),
    ]
    for arguments, message in cases:
        assert message in refused(unchanged(lambda arguments=arguments: run(*arguments)))
    for arguments in (("--lr", "-1"), ("--epochs", "0"), ("--optimizer", "lion"), ("--schedule", "stairs")):
        finished = unchanged(lambda arguments=arguments: run(*command, *arguments))
        assert finished.code == 2
        assert "Traceback" not in finished.err


def test_options_of_check(program: Path, data: Path, tmp_path: Path, unchanged) -> None:
    assert "no input has a symbolic dim 'bach'; nearest: batch" in refused(
        unchanged(lambda: run("check", program, "--dim", "bach=3"))
    )
    assert "'GPU' is no execution provider" in refused(unchanged(lambda: run("check", program, "--provider", "GPU")))
    np.savez(tmp_path / "nan.npz", x=np.full((8, 4), np.nan, np.float32), labels=np.zeros(8, np.int64))
    cases = [
        (("--dim", "batch=0"), "batch=0 is no size"),
        (("--dim", "batch=3", "--data", data), "--dim is the size of random inputs"),
        (("--eps", "0"), "eps is a finite step, more than 0, not 0.0"),
        (("--eps", "inf"), "eps is a finite step, more than 0, not inf"),
        (("--data", tmp_path / "nan.npz"), "'x' has NaN"),
    ]
    for arguments, message in cases:
        assert message in refused(unchanged(lambda arguments=arguments: run("check", program, *arguments)))
    finished = unchanged(lambda: run("check", program, "--seed", "-1"))
    assert (finished.code, finished.out) == (2, "")
    assert "--seed" in finished.err


def test_sizes_that_inspect_is_given(model: Path, program: Path, unchanged) -> None:
    for path in (model, program):
        for size, message in (("bach=3", "'bach'; nearest: batch"), ("batch=0", "batch=0 is no size")):
            assert message in refused(unchanged(lambda p=path, size=size: run("inspect", p, "--free-dim", size)))


def test_options_of_report(model: Path, program: Path, data: Path, tmp_path: Path, unchanged) -> None:
    np.savez(tmp_path / "other.npz", x=random(8, 5), labels=np.zeros(8, np.int64))
    cases = [
        ((model,), "is no joint graph"),
        ((program, "--samples", "3"), "--samples and --provider are for --data"),
        ((program, "--free-dim", "bach=3"), "no input has a symbolic dim 'bach'; nearest: batch"),
        ((program, "--data", tmp_path / "gone.npz"), "There is no file"),
        ((program, "--data", tmp_path / "other.npz"), "Input 'x' has shape [8, 5]"),
        ((program, "--data", data, "--provider", "GPU"), "'GPU' is no execution provider"),
    ]
    for arguments, message in cases:
        assert message in refused(unchanged(lambda arguments=arguments: run("report", *arguments)))
