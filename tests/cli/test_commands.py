"""What each command does when all is well."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy

import onnxgrad
from onnxgrad.compiler.operators import operator_table
from tests.cli.running import run
from tests.compiler.forward_models import MLP_WEIGHTS, mlp, parse, random

COMMANDS = ["compile", "train", "transform", "inspect", "report", "check", "ops"]


def test_help_lists_the_commands_and_each_shows_an_example() -> None:
    overview = run("--help")
    assert overview.code == 0
    for command in COMMANDS:
        assert command in overview.out
        shown = run(command, "--help")
        assert shown.code == 0
        assert f"Example: onnxgrad {command}" in shown.out


def test_help_answers_at_once() -> None:
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "from onnxgrad.cli import main; main()", "--help"], check=True, stdout=-1)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5


def test_version() -> None:
    assert run("--version").out.startswith("onnxgrad 0.")


def test_compile_writes_beside_the_model(model: Path) -> None:
    finished = run("compile", model, "--loss", "cross_entropy")
    assert (finished.code, finished.err) == (0, "")
    program = onnxgrad.load(model.with_suffix(".train.onnx"))
    assert program.signature.loss == "loss"
    assert program.signature.mode == "grad"
    assert f"Wrote {model.with_suffix('.train.onnx')}" in finished.out
    assert "3 forward →" in finished.out


def test_compile_remembers_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache" / "tuning.json"
    monkeypatch.setenv("ONNXGRAD_CACHE_DIR", str(cache.parent))
    path = tmp_path / "m.onnx"
    graph = "g (float[batch, 4, 8, 8] x) => (float[batch, 4, 6, 6] y) { y = Conv (x, w) }"
    onnx.save(parse(graph, {"w": random(4, 4, 3, 3)}), path)
    command = ("compile", path, "--wrt", "w", "--tune", "--provider", "CPUExecutionProvider", "--assume-dim", "batch=3")
    assert run(*command).code == 0
    measured = {entry["what"]["family"]: entry for entry in json.loads(cache.read_text())["measured"]}
    entry = measured["weight gradient of a convolution"]
    assert entry["what"]["operands"][0] == ["FLOAT", 3, 4, 8, 8]
    assert (entry["what"]["providers"], entry["what"]["onnxruntime"]) == (
        ["CPUExecutionProvider"],
        onnxruntime.__version__,
    )
    assert len(entry["seconds"]) > 1
    before = cache.stat().st_mtime_ns
    assert run(*command).code == 0
    assert cache.stat().st_mtime_ns == before


def test_compile_with_every_option(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    finished = run(
        *("compile", model, "-o", target, "--loss", "cross_entropy", "--loss-option", "label_smoothing=0.1"),
        *("--wrt", "fc2.*", "--wrt", "x", "--mode", "accumulate", "--free-dim", "batch=8", "--opset", "21", "--json"),
        *("--dump", tmp_path / "passes", "--output-name", "logits"),
    )
    assert finished.code == 0
    summary = json.loads(finished.out)
    assert summary["path"] == str(target)
    assert summary["gradients"] == ["fc2.weight", "fc2.bias", "x"]
    assert (summary["mode"], summary["opset"], summary["loss"]) == ("accumulate", 21, "loss")
    assert summary["forward_nodes"] == 3
    assert summary["joint_nodes"] > 6
    assert summary["bytes"] == target.stat().st_size
    assert summary["seconds"] > 0
    assert [record["name"] for record in summary["passes"]][-1] == "Schedule"
    dumped = sorted(path.name for path in (tmp_path / "passes").glob("*.onnx"))
    assert len(dumped) == len(summary["passes"])
    assert dumped[0] == "01-FixDims.onnx"
    signature = onnxgrad.load(target).signature
    assert {port.name: port.shape for port in signature.inputs}["x"] == (8, 4)
    smoothed, plain = (
        onnxgrad.compile(mlp(8), loss=loss).session().run({"x": random(8, 4), "labels": np.arange(8) % 3}, loss=True)
        for loss in (onnxgrad.losses.CrossEntropy(label_smoothing=0.1), "cross_entropy")
    )
    loss = onnxgrad.load(target).session().run({"x": random(8, 4), "labels": np.arange(8) % 3}, loss=True)["loss"]
    np.testing.assert_allclose(loss, smoothed["loss"], rtol=1e-6)
    assert abs(loss - plain["loss"]) > 1e-4


def test_compile_says_what_each_pass_did(model: Path) -> None:
    shown = run("compile", model, "--passes").out
    for name in ("InferShapes", "Differentiate", "LowerOpset"):
        assert name in shown


def test_compile_with_unused_members(tmp_path: Path) -> None:
    graph = "g (float[N, 3] x, float[N, 3] z) => (float[N, 3] y) { y = Mul (x, w) }"
    onnx.save(parse(graph, {"w": random(3)}), tmp_path / "m.onnx")
    command = ("compile", tmp_path / "m.onnx", "--wrt", "w", "--wrt", "z", "--json")
    assert run(*command).code == 2
    unused = json.loads(run(*command, "--allow-unused").out)
    assert (unused["gradients"], unused["unused"]) == (["w"], ["z"])
    assert json.loads(run(*command, "--materialize-grads").out)["gradients"] == ["w", "z"]


def test_a_second_model_as_the_loss(model: Path, tmp_path: Path) -> None:
    graph = (
        "own (float[N, 3] logits, float[N, 3] t) => (float l) { d = Sub (logits, t) l = ReduceSum <keepdims=0> (d) }"
    )
    onnx.save(parse(graph), tmp_path / "loss.onnx")
    assert run("compile", model, "--loss", tmp_path / "loss.onnx").code == 0
    signature = onnxgrad.load(model.with_suffix(".train.onnx")).signature
    assert [port.name for port in signature.inputs_of("label")] == ["t"]


def test_checkpoints_and_a_budget(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    wanted = ("compile", model, "-o", target, "--loss", "cross_entropy")
    assert run(*wanted, "--checkpoint", "auto", "--assume-dim", "batch=1024").code == 0
    assert run(*wanted, "--checkpoint", "2").code == 0
    assert run(*wanted, "--memory-budget", "1GB", "--assume-dim", "batch=1024").code == 0
    target.unlink()
    for options in (("--checkpoint", "nothing"), ("--memory-budget", "1GB"), ("--memory-budget", "much")):
        finished = run(*wanted, *options)
        assert finished.code == 2
        assert "Traceback" not in finished.out + finished.err
        assert not target.exists()


def test_inspect_a_forward_model(model: Path) -> None:
    found = json.loads(run("inspect", model, "--json").out)
    assert (found["opset"], found["producer"], found["nodes"]) == (20, "tests", 3)
    assert [value["name"] for value in found["parameters"]] == list(MLP_WEIGHTS)
    assert all(value["active"] for value in found["parameters"])
    assert {operator["operator"]: operator["state"] for operator in found["operators"]} == {
        "Gemm": "rule",
        "Tanh": "rule",
    }
    assert found["blockers"] == []
    assert found["signature"] is None
    shown = run("inspect", model)
    assert shown.code == 0
    assert "4 parameters" in shown.out
    assert "Arithmetic for batch=32: " in shown.out
    doubled = json.loads(run("inspect", model, "--free-dim", "batch=64", "--json").out)
    assert doubled["forward_flops"]["products"] == 2 * found["forward_flops"]["products"] > 0
    assert found["joint_flops"] is None


def test_inspect_says_what_blocks_the_path(tmp_path: Path) -> None:
    graph = """g (float[N, 3] x) => (float[N, 3] y) {
        m = Mul (x, w) [shaky] y = com.example.Shake (m) s = Constant <value = float {0.5}> () z = Mul (v, s)
    }"""
    onnx.save(parse(graph, {"w": random(3), "v": random(3)}), tmp_path / "m.onnx")
    found = json.loads(run("inspect", tmp_path / "m.onnx", "--json").out)
    assert found["blockers"] == ["com.example.Shake node 'shaky': no rule is registered for this operator"]
    assert {o["operator"]: o["state"] for o in found["operators"]}["com.example.Shake"] == "no rule yet"
    assert "blocks the differentiated path: com.example.Shake" in run("inspect", tmp_path / "m.onnx").out


def test_inspect_a_joint_graph(program: Path) -> None:
    found = json.loads(run("inspect", program, "--json").out)
    assert found["signature"]["mode"] == "accumulate"
    ports = {port["name"]: port for port in found["signature"]["inputs"]}
    assert ports["fc1.weight.grad.buffer"]["partner"] == "fc1.weight.grad"
    shown = run("inspect", program).out
    assert "Joint graph, mode accumulate" in shown
    assert "fc1.weight.grad.buffer (in place)" in shown
    assert "Estimated peak of activations for batch=32: " in shown
    assert "Cost by operator" in shown
    costs = {cost["operator"]: cost for cost in found["costs"]}
    assert (costs["Tanh"]["nodes"], costs["Tanh"]["backward"], costs["Tanh"]["bytes"]) == (1, 0, 32 * 5 * 4)
    assert costs["Gemm"]["nodes"] > costs["Gemm"]["backward"] > 0
    assert sum(cost["flops"] for cost in costs.values()) == sum(found["joint_flops"].values())
    assert sum(cost["nodes"] for cost in costs.values()) == found["nodes"]
    assert [record["name"] for record in found["passes"]][-1] == "Schedule"
    assert "times its forward part's" in shown
    # The gradient of the weights is one product more, that of the input of all but the first layer another.
    assert 2 < found["joint_flops"]["products"] / found["forward_flops"]["products"] < 3
    doubled = json.loads(run("inspect", program, "--free-dim", "batch=64", "--json").out)
    assert found["peak"]["bytes"] < doubled["peak"]["bytes"] <= 2 * found["peak"]["bytes"]


def test_a_report(program: Path, data: Path, tmp_path: Path) -> None:
    plain, full = tmp_path / "plain.html", tmp_path / "full.html"
    assert run("report", program, "-o", plain, "--free-dim", "batch=64").out == f"Wrote {plain}\n"
    assert "batch = 64" in plain.read_text()
    assert run("report", program, "-o", full, "--data", data, "--samples", "16").code == 0
    assert "batch = 16" in full.read_text()
    assert "ms a step" in full.read_text()
    assert run("report", program).code == 0
    assert program.with_suffix(".html").exists()


def test_names_are_printed_as_they_are(tmp_path: Path) -> None:
    """What looks like markup or an emoji in a name is neither."""
    name = "[/b][red]:cat:"
    onnx.save(
        parse(f'g (float[N, 3] "{name}") => (float[N, 3] y) {{ y = Mul ("{name}", w) }}', {"w": random(3)}),
        tmp_path / "m.onnx",
    )
    assert name in run("inspect", tmp_path / "m.onnx").out
    assert run("compile", tmp_path / "m.onnx", "--wrt", "inputs").code == 0
    assert name in run("inspect", tmp_path / "m.train.onnx").out
    assert f"{name} " in run("check", tmp_path / "m.train.onnx").out


def test_check_agrees(program: Path, data: Path) -> None:
    for options in ((), ("--dim", "batch=5", "--fast"), ("--data", data, "--samples", "8", "--max-elements", "16")):
        finished = run("check", program, *options)
        assert (finished.code, finished.err) == (0, "")
        precision = "float32" if "--fast" in options else "float64"
        assert f"Every gradient agrees with finite differences in {precision} (4 checked)" in finished.out
        result = json.loads(run("check", program, "--json", *options).out)
        assert result["passed"]
        assert [gradient["name"] for gradient in result["gradients"]] == list(MLP_WEIGHTS)
        assert all(gradient["norm"] > 0 and gradient["elements"] <= 16 for gradient in result["gradients"])
        assert all(gradient["worst"]["relative"] < 1e-2 for gradient in result["gradients"])
    assert run("check", program, "--second").code == 0


@pytest.mark.parametrize("wrong", ["twice", "zero", "one column is missing", "noise"])
def test_check_finds_a_wrong_gradient(wrong: str, tmp_path: Path) -> None:
    rules = onnxgrad.Registry(onnxgrad.BUILTIN_RULES)

    @rules.vjp("Tanh")
    def tanh(n, dy):
        """Not 1 - y²."""
        y = n.outputs[0]
        right = dy * (1.0 - y * y)
        mask = n.op.constant(np.array([1, 1, 0, 1, 1]), y.dtype)
        noise = n.op.constant(1 + 0.2 * random(5), y.dtype)
        return lambda: {
            "twice": right * 2.0,
            "zero": right * 0.0,
            "one column is missing": right * mask,
            "noise": right * noise,
        }[wrong]

    onnxgrad.compile(mlp(), loss="mse", rules=rules).save(tmp_path / "wrong.train.onnx")
    finished = run("check", tmp_path / "wrong.train.onnx")
    assert finished.code == 1
    assert "2 of 4 gradients are wrong" in finished.out
    result = run("check", tmp_path / "wrong.train.onnx", "--json")
    assert result.code == 1
    verdicts = {gradient["name"]: gradient["passed"] for gradient in json.loads(result.out)["gradients"]}
    assert run("check", tmp_path / "wrong.train.onnx", "--fast").code == 1
    assert verdicts == {"fc1.weight": False, "fc1.bias": False, "fc2.weight": True, "fc2.bias": True}


def test_ops_lists_every_operator() -> None:
    rows = json.loads(run("ops", "--json").out)
    assert rows == [row.as_dict() for row in operator_table()]
    states = {row["operator"]: row["state"] for row in rows if row["domain"] == "ai.onnx"}
    assert (states["MatMul"], states["ArgMax"]) == ("rule", "zero")
    assert {"Abs", "Conv", "Einsum", "Softmax", "Where", "Loop"} < states.keys()
    shown = run("ops").out
    assert "MatMul" in shown
    assert f"{sum(row['state'] == 'rule' for row in rows)} rule" in shown


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_train_learns_and_writes_the_tuned_model(optimizer: str, program: Path, data: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned.onnx"
    rate = "0.5" if optimizer == "sgd" else "0.05"
    finished = run(
        *("train", program, "--data", data, "--val", data, "-o", tuned, "--optimizer", optimizer, "--lr", rate),
        *("--epochs", "6", "--batch-size", "16", "--clip-norm", "5", "--schedule", "cosine", "--warmup", "2", "--json"),
    )
    assert finished.code == 0
    result = json.loads(finished.out)
    assert result["steps"] == 24
    assert result["after"]["loss"] < 0.7 * result["before"]["loss"]
    assert result["after"]["accuracy"] > max(0.9, result["before"]["accuracy"])
    arrays = np.load(data)
    session = onnxruntime.InferenceSession(tuned, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"x": arrays["x"]})
    np.testing.assert_allclose((logits.argmax(1) == arrays["labels"]).mean(), result["after"]["accuracy"])
    assert [value.name for value in session.get_inputs()] == ["x"]


def test_train_continues_from_its_checkpoint(program: Path, data: Path, tmp_path: Path) -> None:
    command = (
        "train",
        program,
        "--data",
        data,
        "--batch-size",
        "16",
        "--seed",
        "4",
        "--momentum",
        "0.9",
        "--optimizer",
        "sgd",
    )
    whole, halves = tmp_path / "whole.onnx", tmp_path / "halves.onnx"
    assert run(*command, "-o", whole, "--epochs", "4").code == 0
    checkpoint = ("--checkpoint", tmp_path / "c.safetensors", "--json")
    assert not json.loads(run(*command, "-o", halves, "--epochs", "2", *checkpoint).out)["resumed"]
    second = json.loads(run(*command, "-o", halves, "--epochs", "4", *checkpoint).out)
    assert (second["resumed"], second["steps"]) == (True, 16)
    assert halves.read_bytes() == whole.read_bytes()


def test_train_reads_safetensors(program: Path, data: Path, tmp_path: Path) -> None:
    safetensors.numpy.save_file(dict(np.load(data)), tmp_path / "data.safetensors")
    finished = run(
        "train", program, "--data", tmp_path / "data.safetensors", "-o", tmp_path / "t.onnx", "--accumulate", "2"
    )
    assert finished.code == 0
    assert f"Wrote {tmp_path / 't.onnx'}" in finished.out


def test_train_names_the_node_that_makes_a_nan(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.train.onnx"
    graph = "g (float[N, 4] x) => (float[N, 3] y) { [project] p = MatMul (x, w) [root] y = Sqrt (p) }"
    onnxgrad.compile(parse(graph, {"w": random(4, 3)}), loss="cross_entropy").save(path)
    command = ("train", path, "--data", data, "-o", tmp_path / "tuned.onnx")
    assert "The loss is nan; the inputs are finite" in run(*command).err
    finished = run(*command, "--detect-anomaly")
    assert finished.code == 2
    assert "Step 1: 'y' has NaN" in finished.err
    assert "Sqrt node 'root', of the forward part" in finished.err
    assert not (tmp_path / "tuned.onnx").exists()
