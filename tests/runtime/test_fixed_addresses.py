"""Session(cuda_graph=True): inputs and outputs at fixed addresses, which needs no GPU to hold."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

import onnxgrad
from onnxgrad.runtime.slots import capturing

from . import mlp


def sessions(**options: object) -> tuple[onnxgrad.Session, onnxgrad.Session]:
    program = onnxgrad.compile(mlp.model(), loss="cross_entropy", free_dims={"N": 4}, **options)
    plain, fixed = (program.session(providers=["CPUExecutionProvider"], cuda_graph=graph) for graph in (False, True))
    return plain, fixed


def test_each_run_sees_its_own_inputs_and_the_parameters_as_they_are() -> None:
    plain, fixed = sessions()
    kept = []
    for seed in range(3):
        batch = mlp.data(4, seed=seed)
        expected, gradients = plain.value_and_grad(batch)
        outputs, found = fixed.value_and_grad(batch)
        kept.append((outputs, found, expected, gradients))
        for session in (plain, fixed):
            session.parameters["head.bias"][:] += 1
    for outputs, found, expected, gradients in kept:  # later runs write over nothing that was given out
        for name, array in expected.items():
            np.testing.assert_array_equal(outputs[name], array)
        for name, array in gradients.items():
            np.testing.assert_array_equal(found[name], array)


def test_gradients_accumulate_in_place() -> None:
    plain, fixed = sessions(mode="accumulate")
    for seed in range(3):
        for session in (plain, fixed):
            session.backward(mlp.data(4, seed=seed))
    for name in mlp.NAMES:
        np.testing.assert_array_equal(fixed.grads[name], plain.grads[name])


def test_ortvalues_in_and_out() -> None:
    plain, fixed = sessions()
    batch = mlp.data(4)
    given = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in batch.items()}
    outputs = fixed.run(given, as_ortvalues=True)
    fixed.run(mlp.data(4, seed=1))
    np.testing.assert_array_equal(outputs["logits"].numpy(), plain.run(batch)["logits"])


def test_the_callers_array_is_not_written_to() -> None:
    _, fixed = sessions()
    first = mlp.data(4)
    copy = first["x"].copy()
    fixed.run(first)
    fixed.run(mlp.data(4, seed=1))
    np.testing.assert_array_equal(first["x"], copy)


def test_a_symbolic_shape_is_refused() -> None:
    program = onnxgrad.compile(mlp.model(), loss="cross_entropy")
    session = program.session(providers=["CPUExecutionProvider"], cuda_graph=True)
    with pytest.raises(onnxgrad.InputError, match=r"fixed shapes.*free_dims=\{'N': 32\}"):
        session.grad(mlp.data(4))


def test_the_cuda_provider_is_told_to_capture() -> None:
    given = ["CPUExecutionProvider", ("CUDAExecutionProvider", {"device_id": 1})]
    assert capturing(given) == [given[0], ("CUDAExecutionProvider", {"device_id": 1, "enable_cuda_graph": "1"})]
    assert capturing(["CUDAExecutionProvider"]) == [("CUDAExecutionProvider", {"enable_cuda_graph": "1"})]
