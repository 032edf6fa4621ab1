"""Reading of models: what is taken, and what is refused before anything of it is used."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import onnxgrad
from onnxgrad.compiler.load import load_model
from onnxgrad.passes.errors import InputError, InvalidModelError
from tests.compiler.forward_models import MLP_WEIGHTS, mlp, parse, random


def add_model(tensor: TensorProto) -> onnx.ModelProto:
    """y = x + w, with *tensor* as w."""
    tensor.name = "w"
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"], name="add")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [tensor],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def external(location: str, dims: tuple[int, ...] = (3,), **entries: object) -> TensorProto:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def write(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, inside a folder that is none of its business and holds twelve bytes."""
    np.ones(3, np.float32).tofile(tmp_path / "secret.data")
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def test_every_form_of_a_model(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    for source in (mlp(), ir.from_proto(mlp()), tmp_path / "m.onnx", str(tmp_path / "m.onnx")):
        loaded = load_model(source)
        assert [node.op_type for node in loaded.model.graph] == ["Gemm", "Tanh", "Gemm"]
        assert loaded.model is not source
    with pytest.raises(InputError, match="not int"):
        load_model(3)  # type: ignore[arg-type]


def test_external_data_stays_on_the_disk(folder: Path) -> None:
    np.arange(6, dtype=np.float32).tofile(folder / "weights.bin")
    loaded = load_model(write(folder, add_model(external("weights.bin", offset=12, length=12))))
    weight = loaded.model.graph.initializers["w"].const_value
    assert isinstance(weight, ir.ExternalTensor)
    np.testing.assert_array_equal(weight.numpy(), [3, 4, 5])


def test_external_data_of_a_model_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "weights").mkdir()
    np.arange(3, dtype=np.float32).tofile(folder / "weights" / "w.bin")
    path = write(folder, add_model(external("weights/w.bin")))
    monkeypatch.chdir("/")
    for source in (path, ir.load(path)):
        program = onnxgrad.compile(source, mode="accumulate")
        np.testing.assert_array_equal(program.parameters["w"], [0, 1, 2])
        moved = folder.parent / "alone.onnx"
        program.save(moved)
        np.testing.assert_array_equal(onnxgrad.load(moved).parameters["w"], [0, 1, 2])
        original = onnxgrad.load(moved).original()
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(original.graph.initializer[0]), [0, 1, 2])
    with pytest.raises(InvalidModelError, match="give the model as a path"):
        load_model(onnx.load(path, load_external_data=False))


def test_external_data_under_a_folder_with_a_relative_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.arange(3, dtype=np.float32).tofile(folder / "w.bin")
    write(folder, add_model(external("w.bin")))
    monkeypatch.chdir(folder)
    assert load_model("m.onnx").folder == folder


ESCAPES: dict[str, Callable[[Path], str]] = {
    "parent": lambda folder: "../secret.data",
    "detour": lambda folder: "../model/../secret.data",
    "absolute": lambda folder: str(folder.parent / "secret.data"),
    "symlink": lambda folder: _link(folder / "link.data", folder.parent / "secret.data"),
    "linked folder": lambda folder: _link(folder / "sub", folder.parent) + "/secret.data",
    "nothing": lambda folder: "",
}


def _link(link: Path, target: Path) -> str:
    link.symlink_to(target)
    return link.name


@pytest.mark.parametrize("escape", ESCAPES)
def test_external_data_outside_the_folder_is_not_read(escape: str, folder: Path) -> None:
    path = write(folder, add_model(external(ESCAPES[escape](folder))))
    with pytest.raises(InvalidModelError, match=r"Tensor 'w' of .* outside the model's folder"):
        load_model(path)


def test_external_data_hidden_in_attributes_subgraphs_and_functions_is_not_read(folder: Path) -> None:
    outside = external("../secret.data")
    outside.name = "hidden"
    constant = helper.make_node("Constant", [], ["c"], value=outside)
    float3 = [helper.make_tensor_value_info("c", TensorProto.FLOAT, [3])]
    branch = helper.make_graph([constant], "branch", [], float3)
    initialized = helper.make_graph([], "branch", [], float3, [outside])
    nodes = {
        "attribute": constant,
        "branch": helper.make_node("If", ["b"], ["c"], then_branch=branch, else_branch=branch),
        "initializer of a branch": helper.make_node("If", ["b"], ["c"], then_branch=initialized, else_branch=branch),
        "function": helper.make_node("Own", [], ["c"], domain="own"),
    }
    for place, node in nodes.items():
        graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("b", TensorProto.BOOL, [])], float3)
        imports = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
        function = helper.make_function("own", "Own", [], ["c"], [constant], imports[:1])
        model = helper.make_model(
            graph, opset_imports=imports, ir_version=10, functions=[function] if place == "function" else []
        )
        with pytest.raises(InvalidModelError, match=r"'hidden' of .* outside the model's folder"):
            load_model(write(folder, model))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (external("gone.data"), "no such file beside the model"),
        (external("short.data"), "too short \\(4 bytes\\)"),
        (external("short.data", dims=(1,), offset=4), "too short"),
        (external("short.data", offset=-4), "too short"),
        (external("short.data", dims=(1,), offset="x"), "is no number"),
        (external("long.data", length=16), "declares \\[3\\] of FLOAT, but has 16 bytes"),
        (external("long.data", dims=(1 << 40,)), "too short"),
        (external("long.data", dims=(1 << 40,), length=12), "declares \\[1099511627776\\] of FLOAT, but has 12 bytes"),
        (external("."), "no such file"),
    ],
)
def test_external_data_that_is_not_there(tensor: TensorProto, message: str, folder: Path) -> None:
    np.ones(1, np.float32).tofile(folder / "short.data")
    np.ones(8, np.float32).tofile(folder / "long.data")
    with pytest.raises(InvalidModelError, match=message):
        load_model(write(folder, add_model(tensor)))


HUGE = {
    "raw": TensorProto(data_type=TensorProto.FLOAT, dims=[1 << 40], raw_data=b"\0" * 4),
    "typed": TensorProto(data_type=TensorProto.FLOAT, dims=[1 << 40], float_data=[0.0]),
    "product": TensorProto(data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 20, 3], raw_data=b"\0" * 4),
    "half": TensorProto(data_type=TensorProto.FLOAT16, dims=[1 << 40], int32_data=[0]),
    "nothing": TensorProto(data_type=TensorProto.FLOAT, dims=[1 << 40]),
    "short": TensorProto(data_type=TensorProto.FLOAT, dims=[3], raw_data=b"\0" * 8),
    "negative": TensorProto(data_type=TensorProto.FLOAT, dims=[-3], raw_data=b"\0" * 12),
}


@pytest.mark.parametrize("size", HUGE)
def test_tensors_that_declare_another_size_than_they_have(size: str) -> None:
    tensor = TensorProto()
    tensor.CopyFrom(HUGE[size])
    with pytest.raises(InvalidModelError, match=r"Tensor 'w' of g declares \["):
        load_model(add_model(tensor))


def test_every_way_to_store_a_tensor_is_taken() -> None:
    for kind, array in {
        TensorProto.FLOAT: random(2, 3),
        TensorProto.DOUBLE: random(2, 3).astype(np.float64),
        TensorProto.FLOAT16: random(2, 3).astype(np.float16),
        TensorProto.INT64: np.arange(6).reshape(2, 3),
        TensorProto.INT8: np.arange(6, dtype=np.int8).reshape(2, 3),
        TensorProto.BOOL: np.eye(3, dtype=bool),
        TensorProto.COMPLEX64: random(2, 3).astype(np.complex64),
        TensorProto.UINT64: np.arange(6, dtype=np.uint64),
        TensorProto.INT4: np.arange(7),
        TensorProto.BFLOAT16: random(5),
        TensorProto.FLOAT: np.zeros((0, 3), np.float32),
    }.items():
        for raw in (False, True):
            values = array.astype(helper.tensor_dtype_to_np_dtype(kind))
            data = onnx.numpy_helper.from_array(values) if raw else helper.make_tensor("t", kind, array.shape, array)
            data.name = "t"
            node = helper.make_node("Constant", [], ["t"], value=data)
            graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("t", kind, array.shape)])
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=12)
            (loaded,) = load_model(model).model.graph
            np.testing.assert_array_equal(loaded.attributes["value"].as_tensor().numpy(), values)
    words = helper.make_tensor("t", TensorProto.STRING, [2], [b"one", b"two"])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["t"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [2])],
        [words],
    )
    load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


GARBAGE: dict[str, bytes] = {
    "truncated": mlp().SerializeToString()[:-100],
    "truncated head": mlp().SerializeToString()[:20],
    "random": np.random.default_rng(0).bytes(4096),
    "text": b"import torch\nmodel = torch.nn.Linear(3, 4)\n",
    "json": b'{"model": [1, 2, 3]}',
    "empty": b"",
    "zeros": b"\0" * 100,
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s.",
    "zip": b"PK\x03\x04\x14\x00\x00\x00\x08\x00",
    "a tensor": onnx.numpy_helper.from_array(random(3), "w").SerializeToString(),
    "a graph": mlp().graph.SerializeToString(),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_what_is_no_model(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(GARBAGE[kind])
    with pytest.raises(InvalidModelError, match=r"m.onnx is not (an ONNX model|a valid ONNX model)"):
        load_model(path)


def test_every_truncation_of_a_model_is_refused_or_a_model(tmp_path: Path) -> None:
    """Cut anywhere, a file either is refused with one error, or happens to be a whole model."""
    data, path = mlp().SerializeToString(), tmp_path / "m.onnx"
    refused = 0
    for end in range(0, len(data), 7):
        path.write_bytes(data[:end])
        try:
            load_model(path)
        except InvalidModelError:
            refused += 1
    assert refused > len(data) // 7 * 0.9


def test_bytes_that_are_flipped_never_crash(tmp_path: Path) -> None:
    """A damaged model is refused with an error of ours, or differentiated; nothing else comes out."""
    data, random_bytes = mlp().SerializeToString(), np.random.default_rng(1)
    differentiated = 0
    for _ in range(200):
        damaged = bytearray(data)
        for position in random_bytes.integers(0, len(data), 3):
            damaged[position] = random_bytes.integers(0, 256)
        path = tmp_path / "m.onnx"
        path.write_bytes(bytes(damaged))
        try:
            onnxgrad.compile(path)
            differentiated += 1
        except onnxgrad.Error:
            pass
    assert 0 < differentiated < 100


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("g (float[3] x) => (float[3] y) { y = Add (x, nowhere) }", "nowhere"),
        ("g (float[3] x) => (float[3] y) { y = Add (x) }", "Add"),
        ("g (float[3] x) => (float[3] y) { y = Nonsense (x) }", "Nonsense"),
        ("g (float[3] x) => (float[3] y) { y = Softmax <axes = 1> (x) }", "axes"),
        ("g (float[3] x) => (float[3] y) { y = Sin (x) y = Cos (x) }", "y"),
    ],
)
def test_what_the_checker_rejects(graph: str, message: str) -> None:
    with pytest.raises(InvalidModelError, match=f"g is not a valid ONNX model: .*{message}"):
        load_model(parse(graph))


def test_sizes_that_do_not_fit_are_refused_when_shapes_are_inferred() -> None:
    model = parse("g (float[2, 3] x) => (float[2, 4] y) { y = MatMul (x, w) }", {"w": random(5, 4)})
    with pytest.raises(InvalidModelError, match="MatMul"):
        onnxgrad.compile(model)


@pytest.mark.parametrize("opset", [6, 99])
def test_opsets_out_of_range(opset: int) -> None:
    model = parse("g (float[3] x) => (float[3] y) { y = Mul (x, w) }", {"w": random(3)})
    model.opset_import[0].version = opset
    with pytest.raises(onnxgrad.UnsupportedError, match=f"The model is of opset {opset}"):
        onnxgrad.compile(model)


@pytest.mark.parametrize("missing", ["gone.onnx", "no/such/folder/m.onnx", "."])
def test_paths_that_cannot_be_read(missing: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no file|cannot be read"):
        load_model(tmp_path / missing)


MEMORY_BOMBS = {
    "ConstantOfShape": "s = Constant <value = int64[1] {1099511627776}> () c = ConstantOfShape (s) z = ReduceSum (c)",
    "Expand": "s = Constant <value = int64[1] {1099511627776}> () c = Expand (one, s) z = ReduceSum (c)",
    "Tile": "s = Constant <value = int64[1] {1099511627776}> () c = Tile (one, s) z = ReduceSum (c)",
    "Range": "a = Constant <value = float {0.0}> () b = Constant <value = float {1e12}> () "
    "d = Constant <value = float {1.0}> () c = Range (a, b, d) z = ReduceSum (c)",
    "Pad": "s = Constant <value = int64[2] {0, 1099511627776}> () c = Pad (one, s) z = ReduceSum (c)",
}


@pytest.mark.parametrize("bomb", MEMORY_BOMBS)
def test_a_size_that_is_merely_declared_allocates_nothing(bomb: str, tmp_path: Path) -> None:
    """Compiling with 2 GB of memory to use succeeds, or ends in an error of ours."""
    model = parse(
        f"g (float[1] x) => (float[1] y) {{ {MEMORY_BOMBS[bomb]} m = Mul (x, w) y = Add (m, z) }}",
        {"one": np.ones(1, np.float32), "w": random(2)},
    )
    path = write(tmp_path, model)
    script = f"import onnxgrad\ntry: onnxgrad.compile({str(path)!r})\nexcept onnxgrad.Error as e: print('refused', e)"
    limit = 2 << 30
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert result.returncode == 0, result.stderr


def test_the_weights_of_the_mlp_are_what_they_are() -> None:
    loaded = load_model(mlp())
    for name, array in MLP_WEIGHTS.items():
        value = loaded.model.graph.initializers[name].const_value
        assert value is not None
        np.testing.assert_array_equal(value.numpy(), array)


def test_an_output_of_unknown_rank() -> None:
    """Exporters leave out a shape that they do not know, and ONNX Runtime runs such a model."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[n, 2] x) => (float[n, 2] y)'
        "<float[2, 2] w = {1, 2, 3, 4}> { y = MatMul (x, w) }"
    )
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    before = model.SerializeToString(deterministic=True)
    gradient = (
        onnxgrad.compile(model).session().grad({"x": np.eye(2, dtype=np.float32)}, {"y": np.full((2, 2), 3.0, "f")})
    )
    np.testing.assert_array_equal(gradient["w"], np.full((2, 2), 3.0))
    assert model.SerializeToString(deterministic=True) == before
