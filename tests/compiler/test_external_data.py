"""Models whose constants lie in a file beside them run, and are saved, from any folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import onnxgrad

TEXT = """<ir_version: 8, opset_import: ["": 18]>
g (float[n, 3] x, bool c) => (float[n, 3] y)
<float[3] w = {1, 2, 3}, float[3] b = {0.5, 0.5, 0.5}>
{
    product = Mul (x, w)
    sum = Add (product, b)
    branch = If (c) <
        then_branch = t () => (float[3] u) <float[3] u = {5, 5, 5}> { unread = Neg (u) },
        else_branch = e () => (float[3] v) { v = Constant <value = float[3] {4, 4, 4}> () }
    >
    scaled = Mul (sum, branch)
    y = Add (scaled, scaled)
}"""
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def with_bytes(graph: onnx.GraphProto) -> None:
    """Let tensors be kept as bytes, since only those may lie outside."""
    for tensor in graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.HasField("t"):
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t)))
        with_bytes(attribute.g)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The model, of which every constant lies in `weights.bin`."""
    model = onnx.parser.parse_model(TEXT)
    with_bytes(model.graph)
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save_model(
        model, path, save_as_external_data=True, location="weights.bin", size_threshold=0, convert_attribute=True
    )
    assert len(onnx.load(path).graph.initializer) == 2
    assert (folder / "weights.bin").stat().st_size >= 4 * 3 * 4
    return path


@pytest.mark.parametrize(("condition", "factor"), [(True, 5), (False, 4)])
def test_from_another_folder(condition: bool, factor: int, path: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    feeds = {"x": X, "c": np.array(condition)}
    program = onnxgrad.compile(path, wrt=["w"])
    program.save(tmp_path / "saved.train.onnx")
    for session in (program.session(), onnxgrad.load(tmp_path / "saved.train.onnx").session()):
        outputs, gradients = session.value_and_grad(feeds, {"y": X})
        np.testing.assert_allclose(outputs["y"], 2 * factor * (X * [1, 2, 3] + 0.5))
        np.testing.assert_allclose(gradients["w"], 2 * factor * (X * X).sum(0))
        np.testing.assert_allclose(session.run(feeds)["y"], outputs["y"])
    session.parameters["w"] *= 2
    session.export(tmp_path / "tuned.onnx")
    (y,) = ort.InferenceSession(tmp_path / "tuned.onnx").run(None, feeds)
    np.testing.assert_allclose(y, 2 * factor * (X * [2, 4, 6] + 0.5))
