"""The contract of an expansion: the values of ONNX Runtime's kernel, and the gradients of the formula.

`check_expansion` builds a model of one operator of ONNX Runtime's own, with known and with symbolic sizes, and holds
that

- nothing but standard operators is left, and a second run of the pass finds nothing to do;
- ONNX Runtime computes from them what its kernel of the original operator computes, in float32 and, where there is a
  kernel, in float16;
- in float64 they compute the formula as PyTorch does, and their gradients are those of PyTorch's autograd;
- ONNX Runtime in float32 computes these gradients, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch

from onnxgrad.passes.expand_contrib import ExpandContrib
from onnxgrad.passes.infer_shapes import InferShapes
from onnxgrad.passes.rules import BUILTIN_RULES

from ..rules.checking import assert_close, joint_graph, run_reference, run_runtime

Arrays = Sequence[np.ndarray | None]
Formula = Callable[..., torch.Tensor | Sequence[torch.Tensor]]

TOLERANCES = {"float64": 1e-9, "float32": 2e-5, "float16": 5e-3}


def check_expansion(
    op_type: str,
    inputs: Arrays,
    formula: Formula | None,
    *,
    attributes: Mapping[str, Any] | None = None,
    outputs: int | Sequence[bool] = 1,
    wrt: Sequence[int] | None = None,
    constants: Sequence[int] = (),
    static: Sequence[int] = (),
    dynamic: bool = True,
    domain: str = "com.microsoft",
    kernel_dtypes: Sequence[type] = (np.float32,),
    differentiated: Sequence[int] | None = None,
    select: Callable[[int, np.ndarray], np.ndarray] = lambda index, array: array,
) -> None:
    """Check the expansion of *op_type* on *inputs*, which are given in float64 where they are floats.

    Args:
        formula: called with the inputs (None where omitted) as PyTorch tensors, gives what each output in
            *differentiated* is; None to compare with the kernel only.
        outputs: how many there are, or for each whether it is asked for.
        wrt: the indices of the inputs to differentiate; every float input that is no constant if None.
        constants: the indices of the inputs that are initializers.
        static: the indices of the inputs whose sizes are always known (as those of weights are).
        dynamic: check with symbolic sizes, too.
        kernel_dtypes: the float types of the kernels on the CPU; () where there is none.
        differentiated: the indices of the outputs that the formula gives; all if None.
        select: the part of an output, given its index, that is defined.
    """
    wanted = [True] * outputs if isinstance(outputs, int) else list(outputs)
    names = [f"y{index}" for index, asked in enumerate(wanted) if asked]

    def forward(dtype: type, *, symbolic: bool) -> onnx.ModelProto:
        return _model(op_type, _astype(inputs, dtype), attributes or {}, wanted, constants, static, domain, symbolic)

    def feeds(dtype: type) -> dict[str, np.ndarray]:
        arrays = _astype(inputs, dtype)
        return {f"x{i}": a for i, a in enumerate(arrays) if a is not None and i not in constants}

    for symbolic in (False, True) if dynamic else (False,):
        for dtype in kernel_dtypes:
            model = forward(dtype, symbolic=symbolic)
            expected = _run_kernel(model, feeds(dtype))
            actual = run_runtime(expand(model), feeds(dtype))
            for name, array, reference in zip(names, actual, expected, strict=True):
                index = int(name[1:])
                assert array.dtype == reference.dtype, name
                assert array.shape == reference.shape, name
                assert_close(
                    select(index, array),
                    select(index, reference).astype(np.float64),
                    TOLERANCES[np.dtype(dtype).name],
                    f"{name} in {np.dtype(dtype).name}, symbolic={symbolic}",
                )
        if formula is not None:
            chosen = [int(name[1:]) for name in names] if differentiated is None else list(differentiated)
            _check_formula(forward, feeds, inputs, formula, chosen, wrt, constants, select, symbolic=symbolic)


def expand(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with nothing but standard operators."""
    expanded = ir.from_proto(model)
    InferShapes()(expanded)
    before = [value.name for value in expanded.graph.outputs]
    step = ExpandContrib()
    assert step(expanded).modified, "not expanded"
    assert [value.name for value in expanded.graph.outputs] == before
    assert not step(expanded).modified
    for node in expanded.graph:
        assert node.domain == ""
        assert onnx.defs.has(node.op_type), node.op_type
    assert "com.microsoft" not in expanded.opset_imports
    proto = ir.to_proto(expanded)
    onnx.checker.check_model(proto)
    return proto


def stays(
    op_type: str, inputs: Arrays, *, attributes: Mapping[str, Any] | None = None, outputs: int = 1, static: bool = True
) -> bool:
    """Whether the pass leaves a form of *op_type* as it is."""
    arrays = _astype(inputs, np.float32)
    model = ir.from_proto(
        _model(op_type, arrays, attributes or {}, [True] * outputs, (), (), "com.microsoft", not static)
    )
    modified = ExpandContrib()(model).modified
    assert modified or [node.op_type for node in model.graph] == [op_type], "something was emitted"
    return not modified


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


def _check_formula(
    forward: Callable[..., onnx.ModelProto],
    feeds: Callable[[type], dict[str, np.ndarray]],
    inputs: Arrays,
    formula: Formula,
    chosen: Sequence[int],
    wrt: Sequence[int] | None,
    constants: Sequence[int],
    select: Callable[[int, np.ndarray], np.ndarray],
    *,
    symbolic: bool,
) -> None:
    if wrt is None:
        wrt = [i for i, a in enumerate(inputs) if a is not None and a.dtype.kind == "f" and i not in constants]
    tensors = [None if a is None else torch.tensor(a, requires_grad=index in wrt) for index, a in enumerate(inputs)]
    results = formula(*tensors)
    results = [results] if isinstance(results, torch.Tensor) else list(results)
    model = expand(_with_outputs(forward(np.float64, symbolic=symbolic), chosen))
    for index, actual, result in zip(chosen, run_reference(model, feeds(np.float64)), results, strict=True):
        assert_close(select(index, actual), select(index, result.detach().numpy()), 1e-6, f"y{index} against PyTorch")

    random = np.random.default_rng(7)
    seeds = []
    for index, result in zip(chosen, results, strict=True):
        seed, mask = np.zeros(result.shape), select(index, np.arange(result.numel()).reshape(result.shape))
        seed.reshape(-1)[mask.reshape(-1)] = random.standard_normal(mask.size)
        seeds.append(seed)
    expected = torch.autograd.grad(
        results,
        [tensors[index] for index in wrt],
        [torch.tensor(seed) for seed in seeds],
        materialize_grads=True,
        allow_unused=True,
    )
    for dtype, run, tolerance in ((np.float64, run_reference, 1e-6), (np.float32, run_runtime, 1e-4)):
        own = expand(_with_outputs(forward(dtype, symbolic=symbolic), chosen))
        joint = joint_graph(own, [f"x{index}" for index in wrt], BUILTIN_RULES)
        cotangents = {f"y{i}.grad_output": seed.astype(dtype) for i, seed in zip(chosen, seeds, strict=True)}
        for index, actual, gradient in zip(wrt, run(joint, {**feeds(dtype), **cotangents}), expected, strict=True):
            what = f"gradient of input {index} in {np.dtype(dtype).name}, symbolic={symbolic}"
            assert_close(actual, gradient.numpy(), tolerance, what)


def _model(
    op_type: str,
    inputs: Arrays,
    attributes: Mapping[str, Any],
    outputs: Sequence[bool],
    constants: Sequence[int],
    static: Sequence[int],
    domain: str,
    symbolic: bool,
) -> onnx.ModelProto:
    """A model of one node whose inputs are x0, x1, … and whose outputs are y0, y1, …, as far as asked for."""
    given = {index: array for index, array in enumerate(inputs) if array is not None}
    node = onnx.helper.make_node(
        op_type,
        [f"x{index}" if index in given else "" for index in range(len(inputs))],
        [f"y{index}" if asked else "" for index, asked in enumerate(outputs)],
        name="node",
        domain=domain,
        **attributes,
    )
    graph = onnx.helper.make_graph(
        [node],
        "case",
        [
            onnx.helper.make_tensor_value_info(
                f"x{index}",
                onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
                _symbols(array.shape) if symbolic and index not in static else array.shape,
            )
            for index, array in given.items()
            if index not in constants
        ],
        [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name],
        [onnx.numpy_helper.from_array(given[index], f"x{index}") for index in constants],
    )
    opsets = [onnx.helper.make_opsetid("", 26), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=13)


def _symbols(shape: Sequence[int]) -> list[int | str]:
    """A symbol for each size but the width, the same one for equal sizes as exporters write them."""
    width = shape[-1:] if len(shape) > 1 else ()
    return [*(f"s{size}" for size in shape[: len(shape) - len(width)]), *width]


def _with_outputs(model: onnx.ModelProto, indices: Sequence[int]) -> onnx.ModelProto:
    kept = [output for output in model.graph.output if int(output.name[1:]) in indices]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return model


def _astype(inputs: Arrays, dtype: type) -> list[np.ndarray | None]:
    return [None if a is None else a.astype(dtype) if a.dtype.kind == "f" else a for a in inputs]


def _run_kernel(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))
