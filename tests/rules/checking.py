"""The contract tester of VJP rules: any rule, against independent oracles.

`check_rule` builds a one-operator model in the canonical opset, differentiates it, and holds that

- the gradients agree with float64 central finite differences of the forward model, both evaluated by
  `onnx.reference.ReferenceEvaluator`;
- ONNX Runtime, running the same joint graph in float32 and float16, agrees with the float64 gradients;
- PyTorch autograd agrees, where a PyTorch function is given;
- the same holds with every dimension symbolic;
- the joint graph can be differentiated again, and that second derivative agrees with finite differences
  of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch

from onnxgrad.passes.activity import find_activity
from onnxgrad.passes.differentiate import differentiate
from onnxgrad.passes.infer_shapes import InferShapes
from onnxgrad.passes.lower_correlations import LowerCorrelations
from onnxgrad.passes.lower_opset import LowerOpset
from onnxgrad.passes.registry import Registry
from onnxgrad.passes.rules import BUILTIN_RULES
from onnxgrad.passes.tape import CANONICAL_OPSET

from .reference_operators import Reference

Arrays = Sequence[np.ndarray | None]


def check_rule(
    op_type: str,
    inputs: Arrays,
    *,
    attributes: Mapping[str, Any] | None = None,
    outputs: int = 1,
    wrt: Sequence[int] | None = None,
    constants: Sequence[int] = (),
    domain: str = "",
    torch_function: Callable[..., torch.Tensor | Sequence[torch.Tensor]] | None = None,
    dynamic: bool = True,
    static: Sequence[int] = (),
    second_order: bool = True,
    runtime_dtypes: Sequence[type] = (np.float32, np.float16),
    step: float = 1e-5,
    tolerance: float = 1e-6,
    finite_differences: bool = True,
    rules: Registry = BUILTIN_RULES,
) -> None:
    """Check the rule of *op_type* on *inputs*, which are given in float64 where they are floats.

    Args:
        wrt: the indices of the inputs to differentiate; every float input that is no constant if None.
        constants: the indices of inputs that become initializers (axes, shapes, pads).
        torch_function: called with the inputs that are not None, returns the differentiable outputs.
        dynamic: check again with symbolic dims.
        static: the indices of inputs whose dims are known then, too (as those of weights mostly are).
        second_order: check the derivative of the derivative.
        finite_differences: False only at ties and kinks, where the one oracle is PyTorch's convention.
        step, tolerance: of the central differences (absolute step; error relative to the largest gradient).
    """
    case = _Case(op_type, inputs, attributes or {}, outputs, constants, domain, static)
    wrt = list(wrt) if wrt is not None else case.float_inputs()
    assert wrt, "nothing to differentiate"
    for symbolic in [False, True] if dynamic else [False]:
        joint = case.joint(wrt, rules, symbolic=symbolic)
        seeds = case.seeds()
        gradients = run_reference(joint, {**case.feeds(), **seeds})
        for index, gradient in zip(wrt, gradients, strict=True):
            primal = case.inputs[index]
            assert gradient.shape == primal.shape, f"input {index}: {gradient.shape} != {primal.shape}"
            assert gradient.dtype == primal.dtype
        if finite_differences:
            _check_finite_differences(
                case.forward(symbolic=symbolic), case.feeds(), seeds, wrt, gradients, step, tolerance
            )
        for dtype in runtime_dtypes:
            _check_runtime(case.astype(dtype), wrt, rules, seeds, gradients, symbolic=symbolic)
    if torch_function is not None:
        _check_torch(torch_function, case, wrt, seeds, gradients)
    if second_order and finite_differences:
        _check_second_order(case, wrt, rules, step, max(tolerance, 1e-5))


def check_edge_values(
    op_type: str,
    inputs: Arrays,
    torch_function: Callable[..., torch.Tensor],
    *,
    attributes: Mapping[str, Any] | None = None,
    constants: Sequence[int] = (),
    runtime_dtypes: Sequence[type] = (np.float32, np.float16),
) -> None:
    """Check that at kinks, ties and singular points the gradient is PyTorch's, infinities and NaNs included."""
    case = _Case(op_type, inputs, attributes or {}, 1, constants, "")
    wrt = case.float_inputs()
    tensors = {
        index: torch.tensor(array, requires_grad=index in wrt)
        for index, array in enumerate(case.inputs)
        if array is not None
    }
    result = torch_function(*tensors.values())
    expected = torch.autograd.grad(result.sum(), [tensors[index] for index in wrt], materialize_grads=True)
    for dtype in (np.float64, *runtime_dtypes):
        typed = case.astype(dtype)
        run = run_reference if dtype is np.float64 else run_runtime
        feeds = {**typed.feeds(), "y0.grad_output": np.ones(result.shape, dtype)}
        with np.errstate(all="ignore"):
            gradients = run(typed.joint(wrt, BUILTIN_RULES, symbolic=False), feeds)
        tolerance = {np.float64: 1e-12, np.float32: 1e-6, np.float16: 2e-3}[dtype]
        for index, gradient, reference in zip(wrt, gradients, expected, strict=True):
            what = f"gradient of input {index} in {np.dtype(dtype).name}"
            np.testing.assert_allclose(gradient, reference.numpy(), tolerance, err_msg=what)


class _Case:
    """One operator applied to arrays, as a model."""

    def __init__(
        self,
        op_type: str,
        inputs: Arrays,
        attributes: Mapping[str, Any],
        outputs: int,
        constants: Sequence[int],
        domain: str,
        static: Sequence[int] = (),
    ) -> None:
        self.op_type, self.attributes = op_type, dict(attributes)
        self.inputs = [None if array is None else np.asarray(array) for array in inputs]
        self.outputs, self.constants, self.domain, self.static = outputs, set(constants), domain, static

    def float_inputs(self) -> list[int]:
        return [
            index
            for index, array in enumerate(self.inputs)
            if array is not None and array.dtype.kind == "f" and index not in self.constants
        ]

    def astype(self, dtype: type) -> _Case:
        inputs = [a.astype(dtype) if a is not None and a.dtype.kind == "f" else a for a in self.inputs]
        return _Case(
            self.op_type, inputs, self.attributes, self.outputs, sorted(self.constants), self.domain, self.static
        )

    def feeds(self) -> dict[str, np.ndarray]:
        return {
            f"x{index}": array
            for index, array in enumerate(self.inputs)
            if array is not None and index not in self.constants
        }

    def forward(self, *, symbolic: bool) -> onnx.ModelProto:
        names = ["" if array is None else f"x{index}" for index, array in enumerate(self.inputs)]
        node = onnx.helper.make_node(
            self.op_type,
            names,
            [f"y{index}" for index in range(self.outputs)],
            name="node",
            domain=self.domain,
            **self.attributes,
        )
        graph = onnx.helper.make_graph(
            [node],
            "case",
            [
                onnx.helper.make_tensor_value_info(
                    f"x{index}",
                    onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
                    [f"x{index}_{axis}" for axis in range(array.ndim)]
                    if symbolic and index not in self.static
                    else array.shape,
                )
                for index, array in enumerate(self.inputs)
                if array is not None and index not in self.constants
            ],
            [onnx.helper.make_empty_tensor_value_info(f"y{index}") for index in range(self.outputs)],
            [onnx.numpy_helper.from_array(self.inputs[index], f"x{index}") for index in sorted(self.constants)],
        )
        opsets = [onnx.helper.make_opsetid("", CANONICAL_OPSET)]
        if self.domain:
            opsets.append(onnx.helper.make_opsetid(self.domain, 1))
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=13)
        inferred = InferShapes()(ir.from_proto(model)).model
        unranked = [output for output in inferred.graph.outputs if output.shape is None]
        if unranked:
            # Ranks that depend on values (axes computed in the graph) are declared, as an exporter would.
            results = run_reference(ir.to_proto(inferred), self.feeds())
            for output, result in zip(inferred.graph.outputs, results, strict=True):
                if output.shape is None:
                    output.shape = ir.Shape([None] * result.ndim)
        return ir.to_proto(inferred)

    def seeds(self) -> dict[str, np.ndarray]:
        """A random cotangent for each float output."""
        random = np.random.default_rng(7)
        results = run_reference(self.forward(symbolic=False), self.feeds())
        return {
            f"y{index}.grad_output": random.standard_normal(np.shape(result)).astype(result.dtype)
            for index, result in enumerate(results)
            if np.asarray(result).dtype.kind == "f"
        }

    def joint(self, wrt: Sequence[int], rules: Registry, *, symbolic: bool) -> onnx.ModelProto:
        return joint_graph(self.forward(symbolic=symbolic), [f"x{index}" for index in wrt], rules)


def joint_graph(model: onnx.ModelProto, wrt: Sequence[str], rules: Registry, suffix: str = ".grad") -> onnx.ModelProto:
    """The model that computes only the gradients of *model*'s float outputs, seeded, by the names of *wrt*."""
    joint = ir.from_proto(model)
    values = {value.name: value for value in joint.graph.inputs}
    seeds = {}
    for output in joint.graph.outputs:
        if output.dtype is not None and output.dtype.is_floating_point():
            seed = ir.Value(name=f"{output.name}.grad_output", type=output.type, shape=output.shape)
            joint.graph.inputs.append(seed)
            seeds[output] = seed
    gradients = differentiate(joint.graph, seeds, [values[name] for name in wrt], rules)
    joint.graph.outputs.clear()
    for name in wrt:
        node = ir.node("Identity", [gradients[values[name]]])
        node.outputs[0].name = f"{name}{suffix}"
        node.outputs[0].type, node.outputs[0].shape = values[name].type, values[name].shape
        joint.graph.append(node)
        joint.graph.outputs.append(node.outputs[0])
    LowerCorrelations(rules).call(joint)
    proto = ir.to_proto(joint)
    onnx.checker.check_model(proto)
    return proto


def run_reference(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(result) for result in Reference(model).run(None, dict(feeds))]


def run_runtime(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], threads: int = 1) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    lowered = ir.from_proto(model)
    LowerOpset()(lowered)  # as the compiler does; the runtime lacks kernels for some of the newest forms
    data = ir.to_proto(lowered).SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    used = {value.name for value in session.get_inputs()}
    return list(session.run(None, {name: array for name, array in feeds.items() if name in used}))


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float, what: str) -> None:
    """Agreement relative to the largest expected magnitude (at least 1)."""
    scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    error = float(np.max(np.abs(actual.astype(np.float64) - expected), initial=0.0)) / scale
    assert np.isfinite(error), f"{what}: not finite\nactual {actual}\nexpected {expected}"
    assert error <= tolerance, f"{what}: error {error:.3g} > {tolerance:.3g}\nactual {actual}\nexpected {expected}"


def numeric_gradient(
    model: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    seeds: Sequence[np.ndarray | None],
    name: str,
    step: float,
) -> np.ndarray:
    """Central differences of <seeds, model(feeds)> with respect to each element of the input *name*."""
    evaluator = Reference(model)

    def value(array: np.ndarray) -> float:
        results = evaluator.run(None, {**feeds, name: array})
        return float(
            sum(np.sum(seed * result) for seed, result in zip(seeds, results, strict=True) if seed is not None)
        )

    gradient = np.zeros_like(feeds[name])
    for index in np.ndindex(gradient.shape):
        above, below = feeds[name].copy(), feeds[name].copy()
        above[index] += step
        below[index] -= step
        gradient[index] = (value(above) - value(below)) / (2 * step)
    return gradient


def _check_finite_differences(
    model: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    seeds: Mapping[str, np.ndarray],
    wrt: Sequence[int],
    gradients: Sequence[np.ndarray],
    step: float,
    tolerance: float,
) -> None:
    in_order = [seeds.get(f"{output.name}.grad_output") for output in model.graph.output]
    for index, gradient in zip(wrt, gradients, strict=True):
        expected = numeric_gradient(model, feeds, in_order, f"x{index}", step)
        assert_close(gradient, expected, tolerance, f"gradient of input {index} against finite differences")


def _check_runtime(
    case: _Case,
    wrt: Sequence[int],
    rules: Registry,
    seeds: Mapping[str, np.ndarray],
    gradients: Sequence[np.ndarray],
    *,
    symbolic: bool,
) -> None:
    dtype = next(array.dtype for array in case.inputs if array is not None and array.dtype.kind == "f")
    cast = {name: seed.astype(dtype) for name, seed in seeds.items()}
    actual = run_runtime(case.joint(wrt, rules, symbolic=symbolic), {**case.feeds(), **cast})
    tolerance = {"float32": 1e-4, "float16": 4e-2, "float64": 1e-9}[dtype.name]
    for index, result, expected in zip(wrt, actual, gradients, strict=True):
        assert result.dtype == dtype
        assert_close(result, expected, tolerance, f"ONNX Runtime in {dtype.name}, gradient of input {index}")


def _check_torch(
    function: Callable[..., torch.Tensor | Sequence[torch.Tensor]],
    case: _Case,
    wrt: Sequence[int],
    seeds: Mapping[str, np.ndarray],
    gradients: Sequence[np.ndarray],
) -> None:
    tensors = {
        index: torch.tensor(array, requires_grad=index in wrt)
        for index, array in enumerate(case.inputs)
        if array is not None
    }
    results = function(*tensors.values())
    results = [results] if isinstance(results, torch.Tensor) else list(results)
    expected = torch.autograd.grad(
        results,
        [tensors[index] for index in wrt],
        [torch.tensor(seed) for seed in seeds.values()],
        materialize_grads=True,
        allow_unused=True,
    )
    for index, gradient, reference in zip(wrt, gradients, expected, strict=True):
        assert_close(gradient, reference.numpy(), 1e-9, f"gradient of input {index} against PyTorch")


def _check_second_order(case: _Case, wrt: Sequence[int], rules: Registry, step: float, tolerance: float) -> None:
    """Differentiate the joint graph itself, with respect to the inputs and to the seeds."""
    first = case.joint(wrt, rules, symbolic=False)
    feeds = {**case.feeds(), **case.seeds()}
    names = [*(f"x{index}" for index in wrt), *case.seeds()]
    inner = ir.from_proto(first)
    # A first derivative may not depend on every input (that of a linear operator does not).
    names = [name for name in names if _depends(inner, name, rules)]
    second = joint_graph(first, names, rules, suffix=".grad.grad")
    random = np.random.default_rng(11)
    seeds = [random.standard_normal(case.inputs[index].shape) for index in wrt]
    second_seeds = {f"x{index}.grad.grad_output": seed for index, seed in zip(wrt, seeds, strict=True)}
    for name, gradient in zip(names, run_reference(second, {**feeds, **second_seeds}), strict=True):
        expected = numeric_gradient(first, feeds, seeds, name, step)
        assert_close(gradient, expected, tolerance, f"second derivative with respect to {name}")


def _depends(model: ir.Model, name: str, rules: Registry) -> bool:
    """Whether a gradient can flow from the outputs of the model to the input *name*."""
    value = next(value for value in model.graph.inputs if value.name == name)
    return not find_activity(model.graph, [value], list(model.graph.outputs), rules).unreached
