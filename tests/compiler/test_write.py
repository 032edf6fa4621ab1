"""Models are written as protobuf without copies of their weights, and read as what onnx_ir serializes."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxgrad
from benchmarks.peers.memory import PeakMemory
from onnxgrad.compiler.write import SMALL, write_protobuf

LARGE = np.random.default_rng(0).standard_normal((SMALL, 3)).astype(np.float32)


def model_with(*tensors: ir.TensorProtocol) -> ir.Model:
    """A graph that gives out *tensors*, the first of them a graph input too."""
    values = [
        ir.Value(
            name=str(tensor.name),
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            doc_string="a weight",
            metadata_props={"of": "a value"},
            const_value=tensor,
        )
        for tensor in tensors
    ]
    nodes = [ir.node("Identity", [value], metadata_props={"of": "a node"}) for value in values]
    graph = ir.Graph(
        values[:1],
        [node.outputs[0] for node in nodes],
        nodes=nodes,
        initializers=values,
        doc_string="a graph",
        opset_imports={"": 20},
        name="weights",
    )
    return ir.Model(graph, ir_version=10, producer_name="test", metadata_props={"of": "a model"}, doc_string="doc")


def written(model: ir.Model, path: Path) -> onnx.ModelProto:
    with path.open("wb") as file:
        write_protobuf(model, file)
    return onnx.load(path, load_external_data=False)


@pytest.mark.parametrize(
    "array",
    [
        LARGE,
        LARGE.astype(np.float16),
        LARGE.astype(ml_dtypes.bfloat16),
        LARGE.astype(np.int32),
        (LARGE > 0)[:, 1:],
        np.arange(2 * SMALL + 1).astype(ml_dtypes.int4),
        np.float32(3),
        np.zeros((0, 4), np.float32),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_what_is_written_is_what_onnx_ir_serializes(array: np.ndarray, tmp_path: Path) -> None:
    model = model_with(
        ir.tensor(LARGE, name="first", doc_string="of a tensor"),
        ir.tensor(array, name="second"),
        ir.tensor(["a", "word"] * SMALL, name="third"),
    )
    assert written(model, tmp_path / "model.onnx") == ir.to_proto(model)


def test_external_data_moves_into_the_file(tmp_path: Path) -> None:
    arrays = {"large": LARGE, "small": np.arange(3, dtype=np.float32)}
    inside = model_with(*(ir.tensor(array, name=name) for name, array in arrays.items()))
    expected = ir.to_proto(inside)
    ir.save(inside, tmp_path / "outside.onnx", external_data="outside.data", size_threshold_bytes=0)
    outside = ir.load(tmp_path / "outside.onnx")
    assert all(isinstance(value.const_value, ir.ExternalTensor) for value in outside.graph.initializers.values())
    assert written(outside, tmp_path / "model.onnx").graph.initializer == expected.graph.initializer


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = model_with(ir.tensor(LARGE, name="weight"))
    before = ir.to_proto(model)
    written(model, tmp_path / "model.onnx")
    assert ir.to_proto(model) == before


WEIGHTS, WIDTH = 12, 1 << 10


def peak_of_compiling(path: Path) -> int | None:
    """From a file to the joint graph's: the peak of memory above what there was, in sizes of the model."""
    onnxgrad.compile(path).save(path.with_name("first.onnx"))  # imports
    memory = PeakMemory()
    onnxgrad.compile(path).save(path.with_name("joint.onnx"))
    return memory.above_start()


def test_compiling_takes_no_more_than_three_times_the_size_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    weights = [np.full((WIDTH, WIDTH), index, np.float32) for index in range(WEIGHTS)]
    nodes = [onnx.helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(WEIGHTS)]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", WIDTH]) for name in ("x0", f"x{WEIGHTS}")
    ]
    initializers = [onnx.numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:], initializers)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9), path)
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # without what other tests have left
        peak = pool.apply(peak_of_compiling, [path])
    if peak is None:
        pytest.skip("the system does not tell the peak of memory")
    assert peak < 3 * path.stat().st_size
