"""ContractInPairs: Einsums of several operands keep their values, and no cotangent is larger than it need be."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

import onnxgrad
from onnxgrad.passes.contract_in_pairs import ContractInPairs

CASES: list[tuple[str, list[tuple[int, ...]], int]] = [
    ("ij,jk,kl->il", [(7, 5), (5, 6), (6, 4)], 2),
    ("ij,jk,kl", [(7, 5), (5, 6), (6, 4)], 2),
    ("bhqd,bhkd,bhke->bhqe", [(2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 7)], 2),
    ("...ij,...jk,kl,l->...i", [(3, 1, 4, 5), (1, 2, 5, 6), (6, 7), (7,)], 3),
    ("i,j,k->", [(5,), (6,), (7,)], 2),
    ("iik,ij,jl->kl", [(3, 3, 4), (3, 5), (5, 6)], 2),
    ("ab,bc,cd,de,ef,fa->a", [(3, 4), (4, 5), (5, 6), (6, 5), (5, 4), (4, 3)], 5),
    ("ij,ij,ij->i", [(4, 5), (4, 5), (4, 5)], 2),
    ("bi,bj,bk->bijk", [(3, 4), (3, 5), (3, 2)], 1),
    ("ij,jk->ik", [(4, 5), (5, 6)], 1),
]


def model_of(equation: str, shapes: list[list[int | str]]) -> onnx.ModelProto:
    inputs = [f"x{index}" for index in range(len(shapes))]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Einsum", inputs, ["y"], name="einsum", equation=equation)],
        "product",
        [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in zip(inputs, shapes, strict=True)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=10)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize(("equation", "shapes", "products"), CASES)
def test_values_and_gradients(equation: str, shapes: list[tuple[int, ...]], products: int, symbolic: bool) -> None:
    named: list[list[int | str]] = [
        [f"d{index}_{axis}" if symbolic and size > 1 else size for axis, size in enumerate(shape)]
        for index, shape in enumerate(shapes)
    ]
    rng = np.random.default_rng(0)
    arrays = {f"x{index}": rng.standard_normal(shape, np.float32) for index, shape in enumerate(shapes)}
    program = onnxgrad.compile(model_of(equation, named), wrt=list(arrays))
    leaves = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in arrays.values()]
    y = torch.einsum(equation, *leaves)
    dy = rng.standard_normal(y.shape, np.float32)
    outputs, gradients = program.session().value_and_grad(arrays, {"y": dy})
    np.testing.assert_allclose(outputs["y"], y.detach(), rtol=1e-4, atol=1e-5)
    expected = torch.autograd.grad(y, leaves, torch.tensor(dy, dtype=torch.float64))
    for found, wanted in zip(gradients.values(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    if not symbolic:
        forward = program.forward()
        assert sum(node.op_type == "Einsum" for node in forward.graph) == products


def test_no_product_is_larger_than_its_factors() -> None:
    """Of four matrices of n by n the cotangents take n squared elements, not n to the fourth."""
    n = 48
    program = onnxgrad.compile(model_of("ij,jk,kl,lm->im", [[n, n]] * 4), wrt=["x0", "x1", "x2", "x3"])
    sizes = [prod(v.shape) for node in program.model.graph for v in node.outputs if v.shape is not None]
    assert max(sizes) == n * n


def test_names_stay() -> None:
    model = ir.from_proto(model_of("ij,jk,kl->il", [[2, 3], [3, 4], [4, 5]]))
    assert ContractInPairs().call(model).modified
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert not ContractInPairs().call(model).modified
