"""docs/errors.md: each error that it shows is raised here, with the text that it shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import onnxgrad
from onnxgrad.passes.registry import Cotangent, Primal, Registry
from onnxgrad.passes.tape import Tensor
from tests.compiler.forward_models import mlp, parse, random

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"
INPUTS = {"x": random(3, 4), "labels": np.arange(3)}
SQRT = "g (float[N, 3] x) => (float[N, 3] y) { [scale] p = Mul (x, w) [root] y = Sqrt (p) }"


def nothing_to_differentiate() -> None:
    onnxgrad.compile(parse("g (float[3] x) => (float[3] y) { y = Sin (x) }"))


def unused() -> None:
    graph = "g (float[N, 3] x, float[N, 3] z) => (float[N, 3] y) { y = Mul (x, w) }"
    onnxgrad.compile(parse(graph, {"w": random(3)}), wrt=["w", "z"])


def cut_off() -> None:
    graph = "g (float[N, 3] x) => (float[N, 3] y) { p = Mul (x, w) [snap] r = Round (p) y = Mul (r, v) }"
    onnxgrad.compile(parse(graph, {"w": random(3), "v": random(3)}), wrt=["w"])


def seed_missing() -> None:
    onnxgrad.compile(mlp()).session().grad({"x": random(3, 4)})


def seed_of_another_shape() -> None:
    onnxgrad.compile(mlp(3)).session().grad({"x": random(3, 4)}, {"logits": np.ones((3, 2), np.float32)})


def integers() -> None:
    graph = "g (int64[N] tokens) => (float[N, 3] y) { y = Gather (w, tokens) }"
    onnxgrad.compile(parse(graph, {"w": random(5, 3)}), wrt=["tokens"])


def no_rule() -> None:
    graph = "g (float[N, 3] x) => (float[N, 3] y) { p = Mul (x, w) [shaky] y = com.example.Shake (p) }"
    onnxgrad.compile(parse(graph, {"w": random(3)}))


def memory() -> None:
    onnxgrad.compile(mlp(1024), loss="cross_entropy", memory_budget=1000)


def shapes_in_the_model() -> None:
    graph = "g (float[2, 3] x) => (float[2, 4] y) { [project] y = MatMul (x, w) }"
    onnxgrad.compile(parse(graph, {"w": random(5, 4)}))


def shape() -> None:
    onnxgrad.compile(mlp(), loss="cross_entropy").session().grad({"x": random(3, 5), "labels": np.arange(3)})


def sizes() -> None:
    onnxgrad.compile(mlp(), loss="cross_entropy").session().grad({"x": random(3, 4), "labels": np.arange(2)})


def dtype() -> None:
    onnxgrad.compile(mlp()).session().run({"x": np.zeros((3, 4))})


def missing() -> None:
    onnxgrad.compile(mlp(), loss="cross_entropy").session().grad({"x": random(3, 4)})


def index() -> None:
    session = onnxgrad.compile(mlp(), loss="cross_entropy").session()
    session.grad({"x": random(3, 4), "labels": np.array([0, 1, 7])})


def parameter() -> None:
    onnxgrad.compile(mlp()).session().parameters["fc1.weight"] = random(4, 5)


def anomaly() -> None:
    session = onnxgrad.compile(parse(SQRT, {"w": random(3)})).session()
    with session.detect_anomaly():
        session.grad({"x": np.zeros((1, 3), np.float32)}, {"y": np.zeros((1, 3), np.float32)})


def gradcheck() -> None:
    rules = Registry(onnxgrad.BUILTIN_RULES)

    @rules.vjp("Tanh")
    def tanh(n: Primal, dy: Tensor) -> Cotangent:
        return lambda: dy * (1.0 - n.outputs[0])

    onnxgrad.gradcheck(mlp(), INPUTS, loss="cross_entropy", rules=rules)


def random_forward() -> None:
    graph = "g (float[N, 3] x) => (float[N, 3] y) { p = Mul (x, w) r = RandomNormalLike (p) y = Add (p, r) }"
    onnxgrad.gradcheck(parse(graph, {"w": random(3)}), {"x": random(2, 3)})


def twice() -> None:
    """No error: a graph is a file, of which nothing is freed."""
    session = onnxgrad.compile(mlp(), loss="cross_entropy", mode="accumulate").session()
    session.backward(INPUTS)
    once = session.grads["fc1.weight"].copy()
    session.backward(INPUTS)
    np.testing.assert_array_equal(session.grads["fc1.weight"], 2 * once)


def in_place() -> None:
    """No error: a parameter is memory that the next call reads."""
    session = onnxgrad.compile(mlp()).session()
    before = session.run({"x": random(3, 4)})["logits"]
    session.parameters["fc2.bias"] += 1
    np.testing.assert_allclose(session.run({"x": random(3, 4)})["logits"], before + 1, rtol=1e-6)


CASES: dict[str, Callable[[], None]] = {
    "element 0 of tensors does not require grad and does not have a grad_fn": nothing_to_differentiate,
    "One of the differentiated Tensors appears to not have been used in the graph": unused,
    "One of the differentiated Tensors does not require grad": cut_off,
    "grad can be implicitly created only for scalar outputs": seed_missing,
    "Mismatch in shape: grad_output[0] has a shape of …": seed_of_another_shape,
    "only Tensors of floating point dtype can require gradients": integers,
    "derivative for … is not implemented": no_rule,
    "CUDA out of memory": memory,
    "mat1 and mat2 shapes cannot be multiplied": shapes_in_the_model,
    "shape '…' is invalid for input": shape,
    "The size of tensor a must match the size of tensor b": sizes,
    "expected scalar type Float but found Double": dtype,
    "forward() missing 1 required positional argument": missing,
    "index out of range in self": index,
    "size mismatch for …: copying a param with shape … from checkpoint": parameter,
    "Function '…' returned nan values in its 0th output": anomaly,
    "Jacobian mismatch for output 0 with respect to input 0": gradcheck,
    "Backward is not reentrant": random_forward,
    "Trying to backward through the graph a second time": twice,
    "a leaf Variable that requires grad is being used in an in-place operation": in_place,
}
WITHOUT_COUNTERPART = {twice, in_place}


def sections() -> Iterator[tuple[str, str]]:
    """The headings of the page, each with the text below it."""
    for part in re.split(r"^##+ ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        if text.strip():  # what has none heads a group
            yield heading, text


def test_the_page_has_each_case_once() -> None:
    assert sorted(heading for heading, _ in sections()) == sorted(CASES)


@pytest.mark.parametrize("heading", CASES)
def test_the_error_is_the_one_on_the_page(heading: str) -> None:
    text, case = dict(sections())[heading], CASES[heading]
    shown = re.search(r"^```text\n(\w+): (.*?)\n```$", text, re.MULTILINE | re.DOTALL)
    if case in WITHOUT_COUNTERPART:
        assert shown is None
        assert "**No counterpart.**" in text
        return case()
    assert shown is not None
    assert "**Cause.**" in text
    assert "**Fix.**" in text
    error = getattr(onnxgrad, shown[1])
    pattern = ".*".join(map(re.escape, shown[2].split("…")))
    with pytest.raises(error) as caught:
        case()
    assert type(caught.value) is error
    assert re.fullmatch(pattern, str(caught.value), re.DOTALL), str(caught.value)
    return None
