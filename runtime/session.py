"""A program loaded on a device: forward, gradients, accumulation."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort

from ..compiler.program import Program
from ..compiler.save import save_proto
from ..compiler.signature import Port
from ..passes.errors import InputError
from .anomaly import check_finite
from .buffers import Buffers, Layout, np_dtype
from .device import Provider, device_of, resolve_providers
from .executor import Executor
from .feeds import Array, check_feeds

Result = Any
"""A NumPy array, or an OrtValue where `as_ortvalues=True`."""

Part = Literal["forward", "loss", "grad", "accumulate"]
"""What of a program runs: the forward part, without or with the loss, or all of it in one of the two modes."""


class Session:
    """A program with its parameters, and their gradients, as buffers on one device.

    `grad` and `run` may be called from many threads at once; `backward` calls wait for each other. Changing
    parameters (an optimizer's step) while another thread runs is for the caller to avoid.

    Attributes:
        parameters: the parameters by name; on the CPU `session.parameters["fc.weight"]` is a view that may be
            written to.
        grads: what `backward` accumulated, by the parameters' names (or those of other members of `wrt`).
        providers: the execution providers in use.
        options: ONNX Runtime's session options, None for the defaults.
    """

    def __init__(
        self,
        program: Program,
        *,
        providers: Sequence[Provider] | None = None,
        options: ort.SessionOptions | None = None,
    ) -> None:
        """Place *program* on a device.

        Args:
            providers: in ONNX Runtime's own convention; CUDA where it is there, else the CPU, if None.
            options: ONNX Runtime session options (threads, logging, profiling), used for every graph that runs.
        """
        self.program = program
        self.providers = resolve_providers(providers)
        self.device = device_of(self.providers)
        self.options = options
        self._executors: dict[str, Executor] = {}
        self._build = threading.Lock()
        self._detects_anomalies = False
        self._backward = threading.Lock()
        signature = program.signature
        self._fed = {port.name for port in signature.inputs_of("input", "label")}
        self._gradient_of = {str(p.of): p for p in signature.outputs if p.role in ("gradient", "grad_buffer")}
        initial = program.parameters
        shapes = [(name, array.dtype.name, array.shape) for name, array in initial.items()]
        self.parameters = Buffers(Layout.of([shapes])[0], self.device)
        self.parameters.update(initial)
        self.grads = Buffers(self._gradient_layout(self.parameters.layout), self.device)

    def run(self, inputs: Mapping[str, Array], *, loss: bool = False, as_ortvalues: bool = False) -> dict[str, Result]:
        """The forward outputs alone, by name, without seeds; with the *loss* if asked for, which needs the labels."""
        kind: Part = "loss" if loss else "forward"
        executor = self.executor(kind)
        feeds = self._feeds(executor, inputs, None)
        results = executor.run(feeds, self.parameters, as_ortvalues=as_ortvalues)
        self._check_finite(kind, feeds, results)
        return results

    def grad(
        self,
        inputs: Mapping[str, Array],
        grad_outputs: Mapping[str, Array] | None = None,
        *,
        as_ortvalues: bool = False,
    ) -> dict[str, Result]:
        """Fresh gradients by the primal's name, nothing kept (`torch.autograd.grad`).

        Args:
            inputs: the graph inputs, and the labels if the program has a loss.
            grad_outputs: the cotangents of the differentiated outputs by the outputs' names; an output with one
                element needs none.

        Raises InputError for anything that does not fit the signature.
        """
        return self.value_and_grad(inputs, grad_outputs, as_ortvalues=as_ortvalues)[1]

    def value_and_grad(
        self,
        inputs: Mapping[str, Array],
        grad_outputs: Mapping[str, Array] | None = None,
        *,
        as_ortvalues: bool = False,
    ) -> tuple[dict[str, Result], dict[str, Result]]:
        """As `grad`, with the outputs (and the loss) too, all from one run."""
        executor = self.executor("grad")
        feeds = self._feeds(executor, inputs, grad_outputs)
        results = executor.run(feeds, self.parameters, as_ortvalues=as_ortvalues)
        self._check_finite("grad", feeds, results)
        gradients = {port.of: results.pop(port.name) for port in executor.signature.outputs_of("gradient")}
        return results, {str(name): gradient for name, gradient in gradients.items()}

    def backward(
        self,
        inputs: Mapping[str, Array],
        grad_outputs: Mapping[str, Array] | None = None,
        *,
        as_ortvalues: bool = False,
    ) -> dict[str, Result]:
        """Add this call's gradients to `grads`, in place (`loss.backward()`), and return the outputs.

        Raises InputError as `grad` does, and if something other than parameters of fixed shape was differentiated.
        """
        executor = self.executor("accumulate")
        feeds = self._feeds(executor, inputs, grad_outputs)
        unfit = [name for name in self._gradient_of if name not in self.grads]
        if unfit:
            raise InputError(
                f"backward() accumulates into buffers of fixed size, but the gradient of {', '.join(unfit)} has a "
                "symbolic shape; use grad(), or fix the dims with free_dims"
            )
        with self._backward:
            results = executor.run(feeds, self.parameters, self.grads, as_ortvalues=as_ortvalues)
            if self._detects_anomalies:
                sums = {port.name: self.grads[name] for name, port in self._gradient_of.items()}
                self._check_finite("grad", feeds, results | sums)
        return results

    @contextlib.contextmanager
    def detect_anomaly(self) -> Iterator[None]:
        """Within it, a call that gives NaN or an infinity raises, and says which node made it.

        As `torch.autograd.detect_anomaly`, for finding faults, since a call at fault runs twice more, and every call
        looks at its results: outputs must have no NaN (they may have infinities, as a mask does), a loss and
        gradients neither. What happens inside the graph and reaches none of these is no anomaly. Gradients that
        `backward` had accumulated before the fault are lost: call `zero_grad`. It holds for all threads.

        Raises AnomalyError, which names the node, its forward node and rule, and the statistics of what it read.
        """
        before, self._detects_anomalies = self._detects_anomalies, True
        try:
            yield
        finally:
            self._detects_anomalies = before

    def zero_grad(self) -> None:
        """Clear `grads`."""
        self.grads.fill_zero()

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the forward model with the parameters as they are now: the original file, with other weights."""
        save_proto(self.program.original(dict(self.parameters.items())), Path(path))

    def arrange(self, groups: Sequence[Sequence[str]], *, block: int) -> list[dict[str, range]]:
        """Lay the parameters (and gradients) out group by group, so that an optimizer updates each as one range.

        Args:
            groups: parameter names; those in no group come last.
            block: each group is padded to a multiple of so many elements; the padding is zero and stays zero.

        Returns:
            for each group the range of elements it occupies in the flat buffer of each dtype.
        """
        slots = self.parameters.layout.slots
        chosen = {name for group in groups for name in group}
        rest = [name for name in slots if name not in chosen]
        described = [[(name, slots[name].dtype, slots[name].shape) for name in group] for group in [*groups, rest]]
        layout, ranges = Layout.of(described, block=block)
        self.parameters = _moved(self.parameters, layout)
        self.grads = _moved(self.grads, self._gradient_layout(layout))
        return ranges[: len(groups)]

    def _gradient_layout(self, parameters: Layout) -> Layout:
        """The layout of the parameters, so that both line up; gradients of inputs and inner values come behind."""
        others = []
        for name, port in self._gradient_of.items():
            sizes = tuple(dim for dim in port.shape or () if isinstance(dim, int))
            if name not in parameters.slots and port.shape == sizes:
                others.append((name, port.dtype, sizes))
        behind, _ = Layout.of([others])
        slots = dict(parameters.slots)
        lengths = dict(parameters.lengths)
        for name, slot in behind.slots.items():
            slots[name] = type(slot)(slot.dtype, slot.offset + parameters.lengths.get(slot.dtype, 0), slot.shape)
        for dtype, length in behind.lengths.items():
            lengths[dtype] = lengths.get(dtype, 0) + length
        return Layout(slots, lengths)

    def executor(self, kind: Part) -> Executor:
        """The runtime session of one part of the program, built when it is first asked for."""
        with self._build:
            if kind not in self._executors:
                program = self.program
                if kind == "forward" or kind == "loss":
                    model = program.forward(loss=kind == "loss")
                else:
                    program = program.with_mode(kind)
                    model = program.executable()
                self._executors[kind] = Executor(
                    model, program.signature, providers=self.providers, options=self.options, device=self.device
                )
            return self._executors[kind]

    def _check_finite(self, kind: Part, feeds: Mapping[str, Array], results: Mapping[str, Result]) -> None:
        if self._detects_anomalies:
            fed = {**feeds, **dict(self.parameters.items())}
            check_finite(self.program.with_mode("grad"), kind, fed, results, self.providers)

    def _feeds(
        self, executor: Executor, inputs: Mapping[str, Array], grad_outputs: Mapping[str, Array] | None
    ) -> dict[str, np.ndarray | ort.OrtValue]:
        fed, seeds = executor.fed, executor.seeds
        given = dict(grad_outputs or {})
        missing = [name for name, port in seeds.items() if not port.optional and name not in given]
        if missing:
            raise InputError(
                f"Output {missing[0]!r} has more than one element, so its gradient needs a seed: "
                f"pass grad_outputs={{{missing[0]!r}: …}} of its shape (ones for the gradient of its sum)"
            )
        unknown = [name for name in given if name not in seeds]
        if unknown:
            raise InputError(
                f"grad_outputs: {unknown[0]!r} is not differentiated; the outputs are {', '.join(map(repr, seeds))}"
            )
        # What this part of the graph does not need (labels, to compute the forward outputs) may be in the batch.
        unread = self._fed - fed.keys()
        arrays: dict[str, Array] = {name: array for name, array in inputs.items() if name not in unread}
        for name, port in seeds.items():
            if name not in given:
                given[name] = np.ones(port.static_shape or (), np_dtype(port.dtype))
        ports: list[Port] = [*fed.values(), *seeds.values()]
        return check_feeds(ports, {**arrays, **{seeds[name].name: array for name, array in given.items()}})


def _moved(buffers: Buffers, layout: Layout) -> Buffers:
    moved = Buffers(layout, buffers.device)
    moved.update({name: np.array(array) for name, array in buffers.items()})
    return moved
