"""One ONNX Runtime session over one graph, with its parameters and gradient buffers bound by address."""

from __future__ import annotations

import io
import math
import re
import tempfile
import threading
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from ..compiler.save import EXTERNAL_DATA_THRESHOLD, save_model
from ..compiler.signature import Port, Signature
from ..compiler.write import write_protobuf
from ..passes.checkpoint import is_checkpointed
from ..passes.errors import Error, InputError
from .buffers import Buffers, np_dtype
from .device import Device, Provider
from .feeds import FeedCheck
from .processor import adapt_to_processor
from .slots import Slots, check_fixed
from .small_graphs import is_small

_SMALL = 65_536
"""Bytes up to which NumPy's memory serves as an OrtValue's. More comes from the runtime, which keeps pages mapped."""
_TINY = 16_384
"""Bytes up to which a copy takes less time than to bind other memory."""
_UNDOING = ["CommonSubexpressionElimination"]
"""The runtime's optimizers that would undo the choice of residuals; the compiler has merged what is worth merging."""
_ELEMENT_TYPES = {"bfloat16": int(ir.DataType.BFLOAT16)}
_OUT_OF_RANGE = re.compile(r"out of (data )?(range|bounds?)|within the inclusive range", re.IGNORECASE)
_INTERNAL = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |Error in execution: |Non-zero status code returned while running "
    r"|/onnxruntime_src/\S+ .*?\)( \[with .*?\])? "
)


@dataclass(frozen=True)
class _Binding:
    """A binding of the runtime with everything bound that stays where it is from run to run.

    Attributes:
        fed: the names of what is fed; seeds that are not are ones.
        taken: memory that is bound for tiny inputs, by name; others are bound in each run.
        given: memory that is bound for tiny results, by name.
    """

    bound: ort.IOBinding
    fed: frozenset[str]
    parameters: Buffers
    grads: Buffers | None
    taken: dict[str, np.ndarray]
    given: dict[str, np.ndarray]

    def fits(self, fed: Set[str], parameters: Buffers, grads: Buffers | None) -> bool:
        return self.parameters is parameters and self.grads is grads and self.fed == fed


@dataclass(frozen=True)
class _Memory:
    """An array that is still to be allocated, and its element type in ONNX's numbers."""

    shape: tuple[int, ...]
    dtype: np.dtype
    element: int
    nbytes: int

    def allocate(self) -> tuple[np.ndarray, ort.OrtValue]:
        """Such an array, and the OrtValue that is a view of it."""
        array = np.empty(self.shape, self.dtype)
        return array, _view(array, self.element)


_view = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
"""An array as an OrtValue of an element type, which keeps it."""


class Executor:
    """Runs one graph of a program. Several threads may run it at once; each has a binding of its own.

    Attributes:
        signature: of the joint graph that the graph belongs to.
        fed: the inputs and labels that this graph takes, by name.
        seeds: the cotangents that it takes, by the names of the outputs.
        unit_seeds: what each of them is where it is not fed, by its own name: ones, or a one where its shape is not
            known; not to be written to.
        needs_seeds: whether one of them must be fed.
        check: `check_feeds` for the inputs, labels and seeds.
        gradients: the names of the primals by those of the gradients that it gives.
    """

    def __init__(
        self,
        model: ir.Model,
        signature: Signature,
        *,
        providers: Sequence[Provider],
        options: ort.SessionOptions | None,
        device: Device,
        fixed_addresses: bool = False,
    ) -> None:
        """Load *model*.

        Args:
            fixed_addresses: copy inputs and outputs to and from memory that stays where it is; one run at a time.

        Raises InputError where that is wanted and a shape is symbolic.
        """
        self.signature = signature
        self._device = device
        self._session = create_session(model, providers, options)
        names = {value.name for value in model.graph.inputs}
        self._ports = [port for port in signature.inputs if port.name in names]
        self.fed = {port.name: port for port in self._ports if port.role in ("input", "label", "residual")}
        self.seeds = {str(port.of): port for port in self._ports if port.role == "grad_output"}
        self.unit_seeds = {
            port.name: np.ones(port.static_shape or (), np_dtype(port.dtype)) for port in self.seeds.values()
        }
        self.needs_seeds = not all(port.optional for port in self.seeds.values())
        self.check = FeedCheck(self.fed | {port.name: port for port in self.seeds.values()})
        self._integers = [port.name for port in self._ports if "int" in port.dtype]
        outputs = {value.name for value in model.graph.outputs}
        self._outputs = [port for port in signature.outputs if port.name in outputs]
        self.gradients = {port.name: str(port.of) for port in self._outputs if port.role == "gradient"}
        self._results = [port for port in self._outputs if not (port.role == "grad_buffer" and port.in_place)]
        self._known = {port.name: memory for port in self._results if (memory := self._known_memory(port))}
        self._slots = Slots(device) if fixed_addresses else None
        self._bound_anew = [port for port in self._results if port.role == "grad_buffer" or not self._tiny(port)]
        self._idle: list[_Binding] = []
        self._turn = threading.Lock()
        if fixed_addresses:
            check_fixed((*self._ports, *self._outputs))

    def run(
        self,
        feeds: Mapping[str, np.ndarray | ort.OrtValue],
        parameters: Buffers,
        grads: Buffers | None = None,
        *,
        as_ortvalues: bool = False,
    ) -> dict[str, Any]:
        """Run the graph on *feeds*, the *parameters* and, if it accumulates, the gradient buffers *grads*.

        Returns:
            the outputs that are no buffers, by name: NumPy arrays, or OrtValues on the session's device.
        """
        if self._slots is not None:
            with self._turn:
                arrays = self._run_in_slots(self._slots, feeds, parameters, grads)
            return {name: self._on_device(array) if as_ortvalues else array for name, array in arrays.items()}
        binding = self._take_binding(feeds.keys(), parameters, grads)
        for name, array in feeds.items():
            if name in binding.taken and isinstance(array, np.ndarray):
                binding.taken[name][...] = array
            else:
                self._bind_input(binding, name, array)
        anew = {port.name: self._bind_output(binding.bound, port, as_ortvalues) for port in self._bound_anew}
        run_bound(self._session, binding.bound, self._integers)
        results: dict[str, Any] = {name: array.copy() for name, array in binding.given.items()}
        if as_ortvalues:
            results = {name: _view(array, self._known[name].element) for name, array in results.items()}
        if anew:
            results |= self._collect(binding.bound, anew, grads, as_ortvalues)
            results = {port.name: results[port.name] for port in self._results if port.name in results}
        self._idle.append(binding)
        return results

    def _bind_output(
        self, bound: ort.IOBinding, port: Port, as_ortvalues: bool
    ) -> tuple[np.ndarray, ort.OrtValue] | None:
        """Bind memory for a result; None where it is the runtime that allocates it."""
        on_device = as_ortvalues or port.role == "grad_buffer"
        memory = self._known.get(port.name)
        if memory is None or port.role == "grad_buffer" or (on_device and memory.nbytes > _SMALL):
            self._bind_to_device(bound, port, on_device=on_device)
            return None
        allocated = memory.allocate()
        bound.bind_ortvalue_output(port.name, allocated[1])
        return allocated

    def _collect(
        self,
        bound: ort.IOBinding,
        anew: Mapping[str, tuple[np.ndarray, ort.OrtValue] | None],
        grads: Buffers | None,
        as_ortvalues: bool,
    ) -> dict[str, Any]:
        """The results that were bound *anew*, but for gradient buffers, which are written to *grads*."""
        values: dict[str, ort.OrtValue] = {}
        if None in anew.values():
            values = dict(zip((port.name for port in self._outputs), bound.get_outputs(), strict=True))
        results: dict[str, Any] = {}
        for port in self._bound_anew:
            allocated = anew[port.name]
            if allocated is not None:
                results[port.name] = allocated[1] if as_ortvalues else allocated[0]
                continue
            value = values[port.name]
            if port.role == "grad_buffer":
                assert grads is not None
                grads[str(port.of)] = value.numpy()
            else:
                # The view that an OrtValue gives of memory of its own ends with it.
                results[port.name] = value if as_ortvalues else np.array(value.numpy())
            self._bind_to_device(bound, port, on_device=True)  # lets go of what the runtime has allocated
        return results

    def _run_in_slots(
        self, slots: Slots, feeds: Mapping[str, np.ndarray | ort.OrtValue], parameters: Buffers, grads: Buffers | None
    ) -> dict[str, np.ndarray]:
        feeds = {**self.unit_seeds, **feeds}
        binding = self._take_binding(feeds.keys(), parameters, grads)
        for name, array in feeds.items():
            slots.bind_input(binding.bound, name, array)
        for port in self._results:
            slots.bind_output(binding.bound, port)
        run_bound(self._session, binding.bound, self._integers)
        self._idle.append(binding)
        results = {}
        for port in self._results:
            value = slots.copy_of(port.name)
            if port.role == "grad_buffer":
                assert grads is not None
                grads[str(port.of)] = value
            else:
                results[port.name] = value
        return results

    def _on_device(self, array: np.ndarray) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_numpy(array, self._device.kind, self._device.index)

    def _bind_input(self, binding: _Binding, name: str, array: np.ndarray | ort.OrtValue) -> None:
        if isinstance(array, ort.OrtValue):
            binding.bound.bind_ortvalue_input(name, array)
            binding.taken.pop(name, None)
        else:
            binding.bound.bind_cpu_input(name, array)

    def _take_binding(self, fed: Set[str], parameters: Buffers, grads: Buffers | None) -> _Binding:
        """An idle binding of these buffers, or a new one."""
        while self._idle:
            try:
                binding = self._idle.pop()
            except IndexError:  # another thread took it
                break
            if binding.fits(fed, parameters, grads):
                return binding
        bound = self._session.io_binding()
        for port in self._ports:
            if port.role == "parameter":
                self._bind_buffer(bound.bind_input, port, parameters, port.name)
            elif port.role == "grad_buffer":
                assert grads is not None
                self._bind_buffer(bound.bind_input, port, grads, str(port.of))
            elif port.name in self.unit_seeds and port.name not in fed:
                bound.bind_cpu_input(port.name, self.unit_seeds[port.name])
        taken: dict[str, np.ndarray] = {}
        given: dict[str, np.ndarray] = {}
        for port in self._ports:
            memory = self._tiny(port)
            if memory is not None and port.name in fed:
                taken[port.name], value = memory.allocate()
                bound.bind_ortvalue_input(port.name, value)
        for port in self._outputs:
            memory = self._tiny(port)
            if port.role == "grad_buffer" and port.in_place:
                assert grads is not None
                self._bind_buffer(bound.bind_output, port, grads, str(port.of))
            elif memory is not None and port.role != "grad_buffer":
                given[port.name], value = memory.allocate()
                bound.bind_ortvalue_output(port.name, value)
            else:
                self._bind_to_device(bound, port, on_device=True)
        return _Binding(bound, frozenset(fed), parameters, grads, taken, given)

    def end_profiling(self) -> Path:
        """Stop the profiler of a session whose options have `enable_profiling`, and say where its records are."""
        return Path(self._session.end_profiling())

    def _bind_buffer(self, bind: Any, port: Port, buffers: Buffers, name: str) -> None:
        shape = list(buffers.layout.slots[name].shape)
        element = element_type(port.dtype)
        bind(port.name, self._device.kind, self._device.index, element, shape, buffers.address(name))

    def _known_memory(self, port: Port) -> _Memory | None:
        """What NumPy is to allocate, for the runtime to read and write at once; None if it cannot."""
        shape = port.static_shape
        dtype = np_dtype(port.dtype)
        if shape is None or self._device.kind != "cpu" or dtype.kind not in "fiub":
            return None
        nbytes = math.prod(shape) * dtype.itemsize
        return _Memory(shape, dtype, ir.DataType.from_numpy(dtype).value, nbytes)

    def _tiny(self, port: Port) -> _Memory | None:
        """The memory of an input or output that is copied in or out, None of any other."""
        memory = self._known_memory(port) if self._slots is None else None
        return memory if memory is not None and memory.nbytes <= _TINY else None

    def _bind_to_device(self, bound: ort.IOBinding, port: Port, *, on_device: bool) -> None:
        """Let the runtime allocate an output."""
        kind = self._device.kind if on_device else "cpu"
        bound.bind_output(port.name, kind, self._device.index if kind != "cpu" else 0)


def create_session(
    model: ir.Model, providers: Sequence[Provider], options: ort.SessionOptions | None
) -> ort.InferenceSession:
    """Load *model* into ONNX Runtime, for which it may be changed.

    Raises Error, with the runtime's reason, when it does not take it.
    """
    options = options or session_options(graph=model.graph)
    if _may_change_graph(providers, options):
        adapt_to_processor(model)
    weights = [v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None]
    try:
        if sum(weights) <= EXTERNAL_DATA_THRESHOLD:
            file = io.BytesIO()
            write_protobuf(model, file)
            proto = file.getvalue()
            return ort.InferenceSession(proto, options, providers=list(providers), disabled_optimizers=_UNDOING)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            save_model(model, path)
            return ort.InferenceSession(str(path), options, providers=list(providers), disabled_optimizers=_UNDOING)
    except Exception as error:
        raise Error(f"ONNX Runtime could not load the graph: {_reason(error)}") from error


def _may_change_graph(providers: Sequence[Provider], options: ort.SessionOptions) -> bool:
    """Whether the processor runs the graph, and the runtime may rewrite it as its kernels like it."""
    first = providers[0] if providers else ""
    level = options.graph_optimization_level
    return first == "CPUExecutionProvider" and level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL


def run_bound(session: ort.InferenceSession, binding: ort.IOBinding, integers: Sequence[str] = ()) -> None:
    """Run what is bound.

    Args:
        integers: the inputs that may be indices, to name when an index is out of range.

    Raises InputError when an index is, and Error, with the runtime's reason, when the run fails otherwise.
    """
    try:
        session.run_with_iobinding(binding)
    except Exception as error:
        reason = _reason(error)
        if integers and _OUT_OF_RANGE.search(reason):
            names = ", ".join(map(repr, integers))
            raise InputError(f"An index or label is out of range; check the values of {names}. {reason}") from error
        raise Error(f"ONNX Runtime could not run the graph: {reason}") from error


def element_type(dtype: str) -> Any:
    """What ONNX Runtime's binding takes for a signature's dtype name."""
    return _ELEMENT_TYPES.get(dtype) or np_dtype(dtype).type


def session_options(threads: int | None = None, graph: ir.Graph | None = None) -> ort.SessionOptions:
    """The options of a session for which none are given.

    Args:
        threads: how many work on one operator; ONNX Runtime's own choice, one a core, if None.
        graph: what is to run: a small one, and one with checkpoints, have memory of their own kind.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    # What goes wrong is raised; the runtime need not print it as well.
    options.log_severity_level = 4
    # A small graph takes least time with one piece of memory for all values of a run, from the system. For others the
    # memory pattern planner would keep one block for the largest batch seen: a quarter to a third more memory.
    small = graph is not None and is_small(graph)
    options.enable_mem_pattern = small
    # The arena keeps what is freed, in pieces that a larger tensor does not fit in. Without it a language model with
    # checkpoints took a fifth less memory, in up to 1.14 times the time.
    options.enable_cpu_mem_arena = not small and (graph is None or not is_checkpointed(graph))
    # A program's graphs, and its optimizer's, take turns. Threads that wait for more work of one graph would take the
    # cores from the next: training steps took up to 1.4 times as long.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _reason(error: Exception) -> str:
    """The first line of the runtime's message, without its error codes and the places in its source."""
    text = str(error).strip().splitlines()
    return _INTERNAL.sub("", text[0]) if text else type(error).__name__
