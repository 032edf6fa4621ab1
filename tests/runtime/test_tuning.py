"""Tuning: what is measured is taken, stays exact, and is remembered."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

import onnxgrad
from onnxgrad.passes.errors import Error, InputError
from onnxgrad.passes.forms import Alternatives
from onnxgrad.runtime import timing, tuning
from onnxgrad.runtime.tuning_cache import FOLDER_VARIABLE
from tests.compiler.forward_models import parse, random

WEIGHTS = {
    "dense": random(8, 3, 3, 3),
    "strided": random(16, 8, 3, 3, seed=1),
    "depthwise": random(16, 1, 3, 3, seed=2),
}
X = random(2, 3, 10, 9)


def convolutions(batch: int | str = "batch") -> onnx.ModelProto:
    text = f"""
        net (float[{batch}, 3, 10, 9] x) => (float[{batch}, 16, 5, 5] y) {{
            a = Conv <pads = [1, 1, 1, 1]> (x, dense)
            b = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (a, strided)
            y = Conv <pads = [1, 1, 1, 1], group = 16> (b, depthwise)
        }}
    """
    return parse(text, WEIGHTS)


def torch_gradients(seed: np.ndarray) -> dict[str, np.ndarray]:
    tensors = {name: torch.tensor(array.astype(np.float64), requires_grad=True) for name, array in WEIGHTS.items()}
    signal = torch.nn.functional.conv2d(torch.tensor(X.astype(np.float64)), tensors["dense"], padding=1)
    signal = torch.nn.functional.conv2d(signal, tensors["strided"], padding=1, stride=2)
    signal = torch.nn.functional.conv2d(signal, tensors["depthwise"], padding=1, groups=16)
    gradients = torch.autograd.grad(signal, list(tensors.values()), torch.tensor(seed.astype(np.float64)))
    return {name: gradient.numpy() for name, gradient in zip(tensors, gradients, strict=True)}


def assert_exact(program: onnxgrad.Program) -> None:
    seed = random(2, 16, 5, 5, seed=3)
    actual = program.session().grad({"x": X}, {"y": seed})
    for name, expected in torch_gradients(seed).items():
        error = np.linalg.norm(actual[name] - expected) / np.linalg.norm(expected)
        assert error < 1e-5, name


class Chooser:
    """Takes the form that *pick* says, and keeps what it was offered."""

    def __init__(self, pick: Callable[[Alternatives], str]) -> None:
        self.pick = pick
        self.offered: list[Alternatives] = []

    def __call__(self, alternatives: Alternatives) -> str:
        self.offered.append(alternatives)
        return self.pick(alternatives)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The times do not matter here."""
    monkeypatch.setattr(timing, "LEAST_SECONDS", 1e-4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def tuner(folder: Path, **options: object) -> tuple[onnxgrad.Tuner, list[str]]:
    """A tuner, and the list to which it adds what it measures."""
    measured: list[str] = []
    made = onnxgrad.Tuner(
        {"batch": 2},
        providers=["CPUExecutionProvider"],
        cache=onnxgrad.TuningCache(folder),
        on_measure=measured.append,
        **options,  # type: ignore[arg-type]
    )
    return made, measured


@pytest.mark.parametrize("batch", ["batch", 2])
def test_every_form_that_is_offered_is_exact(batch: int | str) -> None:
    """First the form of each gradient that is listed first, then the second, until all have had their turn."""
    turn, most, offered = 0, 1, 0
    while turn < most:
        choose = Chooser(lambda alternatives, turn=turn: list(alternatives.forms)[turn % len(alternatives.forms)])
        assert_exact(onnxgrad.compile(convolutions(batch), tune=choose))
        counts = [len(alternatives.forms) for alternatives in choose.offered]
        turn, most, offered = turn + 1, max(counts), max(offered, len(counts))
    assert offered == 6, "one convolution, two gradients of inputs, three of weights"
    assert most >= 5, "of a depthwise weight"


def test_a_tuned_program_is_exact_and_the_next_one_measures_nothing(folder: Path) -> None:
    first, measured = tuner(folder)
    assert_exact(onnxgrad.compile(convolutions(), tune=first))
    assert len(measured) >= 4
    assert any("2×3×10×9" in what for what in measured), "with the batch that was given"
    content = (folder / "tuning.json").read_bytes()

    second, nothing = tuner(folder)
    assert_exact(onnxgrad.compile(convolutions(), tune=second))
    assert nothing == []
    assert (folder / "tuning.json").read_bytes() == content


def test_two_convolutions_of_one_size_are_measured_once(folder: Path) -> None:
    text = """
        net (float[2, 4, 6, 6] x) => (float[2, 4, 6, 6] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, first)
            y = Conv <pads = [1, 1, 1, 1]> (a, second)
        }
    """
    choose, measured = tuner(folder)
    onnxgrad.compile(parse(text, {"first": random(4, 4, 3, 3), "second": random(4, 4, 3, 3, seed=1)}), tune=choose)
    assert sorted(what.partition(",")[0] for what in measured) == [
        "convolution",
        "input gradient of a convolution",
        "weight gradient of a convolution",
    ]


def test_the_forms_of_a_pool_are_measured(folder: Path) -> None:
    """Only where there are two: windows that share elements have indices."""
    text = """
        net (float[batch, 2, 16, 16] x) => (float[batch, 2, 4, 4] y) {
            a = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
            y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (a)
        }
    """
    choose, measured = tuner(folder)
    program = onnxgrad.compile(parse(text), wrt="inputs", tune=choose)
    assert measured == ["input gradient of a maximum pool, 2×2×16×16 · 2×2×8×8"]
    (entry,) = json.loads((folder / "tuning.json").read_text())["measured"]
    assert entry["seconds"].keys() == {"indices", "winners"}
    x, seed = random(2, 2, 16, 16), random(2, 2, 4, 4, seed=1)
    tensor = torch.tensor(x, requires_grad=True)
    pooled = torch.nn.functional.max_pool2d(torch.nn.functional.max_pool2d(tensor, 2), 3, 2, 1)
    (expected,) = torch.autograd.grad(pooled, tensor, torch.tensor(seed))
    np.testing.assert_array_equal(program.session().grad({"x": x}, {"y": seed})["x"], expected)


def test_the_forms_of_sums_at_positions_are_measured(folder: Path) -> None:
    """At random positions of the size that is read from."""
    text = "net (float[6, 8] x, int64[batch] i) => (float[batch, 8] y) { y = Gather(x, i) }"
    choose, measured = tuner(folder)
    program = onnxgrad.compile(parse(text), wrt="inputs", tune=choose)
    assert measured == ["sums of slices at positions, 6×8 · 2 · 2×8"]
    (entry,) = json.loads((folder / "tuning.json").read_text())["measured"]
    assert entry["seconds"].keys() == {"slices", "elements", "product"}
    x, seed = random(6, 8), random(3, 8, seed=1)
    expected = np.zeros_like(x)
    np.add.at(expected, [5, 1, 5], seed)
    gradients = program.session().grad({"x": x, "i": np.array([5, 1, -1])}, {"y": seed})
    np.testing.assert_allclose(gradients["x"], expected, rtol=1e-6)


def test_what_was_measured_decides_against_what_is_expected(folder: Path) -> None:
    """The times in the cache are turned around; the program then has the other form."""
    choose, _ = tuner(folder)
    onnxgrad.compile(convolutions(), tune=choose)
    path = folder / "tuning.json"
    content = json.loads(path.read_text())
    slow = {"convolution": "DIRECT", "weight gradient of a convolution": "CONVOLUTION"}
    for entry in content["measured"]:
        if entry["what"]["family"] in slow:
            entry["seconds"] = dict.fromkeys(entry["seconds"], 1.0) | {slow[entry["what"]["family"]]: 0.1}
    path.write_text(json.dumps(content))
    again, _ = tuner(folder)
    tuned = onnxgrad.compile(convolutions(), tune=again)
    plain = onnxgrad.compile(convolutions())

    def products(program: onnxgrad.Program) -> int:
        return sum(node.op_type in ("MatMul", "Gemm") for node in program.model.graph)

    assert products(tuned) == 0
    assert products(plain) > 0


def test_a_difference_that_may_be_chance_keeps_the_expected_form() -> None:
    assert tuning._fastest({"a": 1.0, "b": 0.99}, "a") == "a"
    assert tuning._fastest({"a": 1.0, "b": 0.9}, "a") == "b"
    assert tuning._fastest({"b": 1.0}, "a") == "b"
    assert tuning._fastest({}, "a") == "a"


@pytest.mark.parametrize("change", ["runtime", "threads", "dtype", "sizes"])
def test_what_was_measured_elsewhere_does_not_count(change: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = tuner(folder, threads=1)
    onnxgrad.compile(convolutions(), tune=first)
    model, threads = convolutions(), 1
    if change == "runtime":
        monkeypatch.setattr(ort, "__version__", "1.99.0")
    elif change == "threads":
        threads = 2
    elif change == "sizes":
        model = convolutions(3)
    else:
        model = onnx.load_from_string(model.SerializeToString())
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
        for tensor in model.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    second, measured = tuner(folder, threads=threads)
    onnxgrad.compile(model, tune=second)
    assert len(measured) >= 4
    again, nothing = tuner(folder, threads=1)
    if change != "runtime":
        onnxgrad.compile(convolutions(), tune=again)
        assert nothing == [], "what was measured first is still there"


def test_what_would_exhaust_memory_is_not_measured(folder: Path) -> None:
    """Its operands would take 170 GB."""
    choose, _ = tuner(folder)
    text = "g (float[{batch}, 3, 200, 200] x) => (float[{batch}, 8, 198, 198] y) {{ y = Conv (x, w) }}"
    onnxgrad.compile(parse(text.format(batch=100_000), {"w": random(8, 3, 3, 3)}), wrt="w", tune=choose)
    entries = json.loads((folder / "tuning.json").read_text())["measured"]
    assert entries
    assert all(entry["seconds"] == {} for entry in entries)


def test_without_tune_nothing_is_measured_or_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    onnxgrad.compile(convolutions())
    assert not folder.exists()


def test_tune_true_remembers_in_the_folder_of_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    program = onnxgrad.compile(convolutions(), tune=True, assume_dims={"batch": 2})
    assert_exact(program)
    operands = [entry["what"]["operands"] for entry in json.loads((folder / "tuning.json").read_text())["measured"]]
    assert ["FLOAT", 2, 3, 10, 9] in [operand for each in operands for operand in each]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"format": 1}', '{"format": 1, "measured": [{"what": {}, "seconds": 3}]}']
)
def test_a_corrupt_cache_is_named_and_left_alone(content: str, folder: Path) -> None:
    folder.mkdir()
    path = folder / "tuning.json"
    path.write_text(content)
    choose, measured = tuner(folder)
    with pytest.raises(InputError, match=r"tuning\.json does not hold what was measured .* Delete it"):
        onnxgrad.compile(convolutions(), tune=choose)
    assert measured == []
    assert path.read_text() == content


def test_a_cache_of_another_format_is_measured_anew(folder: Path) -> None:
    folder.mkdir()
    (folder / "tuning.json").write_text('{"format": 0, "other": []}')
    choose, measured = tuner(folder)
    onnxgrad.compile(convolutions(), tune=choose)
    assert len(measured) >= 4


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Error, match=FOLDER_VARIABLE):
        onnxgrad.TuningCache(tmp_path / "file" / "cache").get({})


def test_what_two_processes_measure_is_kept(folder: Path) -> None:
    one, other = onnxgrad.TuningCache(folder), onnxgrad.TuningCache(folder)
    assert one.get({"n": 1}) is None
    assert other.get({"n": 1}) is None
    one.put({"n": 1}, {"A": 0.5})
    other.put({"n": 2}, {"B": 0.25})
    assert onnxgrad.TuningCache(folder).get({"n": 1}) == {"A": 0.5}
    assert onnxgrad.TuningCache(folder).get({"n": 2}) == {"B": 0.25}


def test_writing_at_once_leaves_a_whole_file(folder: Path) -> None:
    caches = [onnxgrad.TuningCache(folder) for _ in range(4)]

    def write(index: int) -> None:
        for turn in range(5):
            caches[index].put({"writer": index, "turn": turn}, {"A": 1.0})

    threads = [threading.Thread(target=write, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, cache in enumerate(caches):
        cache.put({"writer": index, "turn": 5}, {"A": 1.0})
    written = onnxgrad.TuningCache(folder)
    assert all(written.get({"writer": index, "turn": turn}) for index in range(4) for turn in range(6))
