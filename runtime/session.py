"""A program loaded on a device: forward, gradients, accumulation."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from ..compiler.parameters import as_names
from ..compiler.program import Program
from ..compiler.save import save_proto
from ..compiler.signature import OutputRole, Signature
from ..compiler.split import SplitProgram
from ..compiler.split import split as split_program
from ..passes.errors import InputError
from .anomaly import Run, explain, not_finite
from .buffers import Buffers, Layout
from .device import Provider, device_of, resolve_providers
from .executor import Executor
from .feeds import Array
from .named_feeds import name_feeds
from .pullback import Pullback
from .slots import capturing

Result = Any
"""A NumPy array, or an OrtValue where `as_ortvalues=True`."""

Part = Literal["forward", "loss", "grad", "accumulate", "residuals", "pullback", "pullback_accumulate"]
"""What of a program runs: the forward part, without or with the loss, or all of it in one of the two modes; or the
forward part with the residuals, or the backward part of those, in one of the two modes."""


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
        split: SplitProgram | None = None,
        cuda_graph: bool = False,
    ) -> None:
        """Place *program* on a device.

        Args:
            providers: in ONNX Runtime's own convention; CUDA where it is there, else the CPU, if None.
            options: ONNX Runtime session options (threads, logging, profiling), used for every graph that runs; of
                those of an optimizer's large updates on the CPU only the number of threads.
            split: the program as two models, for `vjp`; it is split when that is first needed, if None.
            cuda_graph: let the CUDA provider capture each graph's kernels in its first run and replay them, which
                spares the launches one by one. All shapes must be fixed, every node must have a CUDA kernel, and the
                model no control flow (ONNX Runtime refuses it otherwise). Inputs are copied to fixed addresses, and
                calls wait for each other; without a GPU that is all that it changes.

        Raises InputError, when a graph first runs, if *cuda_graph* is set and a shape is symbolic.
        """
        self.program = program
        self.providers = resolve_providers(providers)
        if cuda_graph:
            self.providers = capturing(self.providers)
        self._fixed_addresses = cuda_graph
        self.device = device_of(self.providers)
        self.options = options
        self._split = split
        self._executors: dict[tuple[Part, tuple[str, ...] | None], Executor] = {}
        self._build = threading.Lock()
        self._detects_anomalies = False
        self._backward = threading.Lock()
        signature = program.signature
        self._fed = {port.name for port in signature.inputs_of("input", "label")}
        self._gives = tuple(port.name for port in signature.outputs_of("output", "loss"))
        self._gradient_of = {str(p.of): p for p in signature.outputs if p.role in ("gradient", "grad_buffer")}
        initial = program.parameters
        shapes = [(name, array.dtype.name, array.shape) for name, array in initial.items()]
        self.parameters = Buffers(Layout.of([shapes])[0], self.device)
        self.parameters.update(initial)
        self.grads = Buffers(self._gradient_layout(self.parameters.layout), self.device)
        self._unfit = [name for name in self._gradient_of if name not in self.grads]

    def run(self, inputs: Mapping[str, Array], *, loss: bool = False, as_ortvalues: bool = False) -> dict[str, Result]:
        """The forward outputs alone, by name, without seeds; with the *loss* if asked for, which needs the labels."""
        kind: Part = "loss" if loss else "forward"
        executor = self.executor(kind)
        feeds = name_feeds(executor, self._fed, inputs, None)
        results = executor.run(feeds, self.parameters, as_ortvalues=as_ortvalues)
        if self._detects_anomalies:
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
        outputs = None if self._detects_anomalies else ()
        return self.value_and_grad(inputs, grad_outputs, outputs=outputs, as_ortvalues=as_ortvalues)[1]

    def value_and_grad(
        self,
        inputs: Mapping[str, Array],
        grad_outputs: Mapping[str, Array] | None = None,
        *,
        outputs: str | Sequence[str] | None = None,
        as_ortvalues: bool = False,
    ) -> tuple[dict[str, Result], dict[str, Result]]:
        """As `grad`, with the outputs (and the loss) too, all from one run.

        Args:
            outputs: the names of those to give, all if None. Memory of one that is not asked for is free once the graph
                has read it: with `outputs="loss"` the scores over a large vocabulary need not outlive the loss. Each
                choice is a runtime session of its own.

        Raises InputError as `grad` does, and for a name that is neither an output nor the loss.
        """
        executor = self.executor("grad", outputs)
        feeds = name_feeds(executor, self._fed, inputs, grad_outputs)
        results = executor.run(feeds, self.parameters, as_ortvalues=as_ortvalues)
        if self._detects_anomalies:
            self._check_finite("grad", feeds, results, outputs=outputs)
        return results, {of: results.pop(name) for name, of in executor.gradients.items()}

    def backward(
        self,
        inputs: Mapping[str, Array],
        grad_outputs: Mapping[str, Array] | None = None,
        *,
        outputs: str | Sequence[str] | None = None,
        as_ortvalues: bool = False,
    ) -> dict[str, Result]:
        """Add this call's gradients to `grads`, in place (`loss.backward()`), and return the outputs.

        Args:
            outputs: which, as in `value_and_grad`.

        Raises InputError as that does, and if something other than parameters of fixed shape was differentiated.
        """
        executor = self.executor("accumulate", outputs)
        feeds = name_feeds(executor, self._fed, inputs, grad_outputs)
        self._check_accumulable()
        with self._backward:
            results = executor.run(feeds, self.parameters, self.grads, as_ortvalues=as_ortvalues)
            if self._detects_anomalies:
                self._check_finite("grad", feeds, results | self._sums(), outputs=outputs)
        return results

    def pull_back(
        self,
        residuals: Mapping[str, Array],
        grad_outputs: Mapping[str, Array] | None,
        *,
        accumulate: bool,
        forward_feeds: Mapping[str, Array] | None = None,
    ) -> dict[str, Result]:
        """What a Pullback does: the gradients by the primals' names, or nothing if they are added to `grads`.

        Args:
            forward_feeds: what the forward part was fed that gave the residuals, for `detect_anomaly`.
        """
        executor = self.executor("pullback_accumulate" if accumulate else "pullback")
        feeds = name_feeds(executor, self._fed, residuals, grad_outputs)
        if accumulate:
            self._check_accumulable()
            with self._backward:
                executor.run(feeds, self.parameters, self.grads)
                if self._detects_anomalies:
                    self._check_finite("pullback", feeds, self._sums(), forward_feeds)
            return {}
        results = executor.run(feeds, self.parameters)
        if self._detects_anomalies:
            self._check_finite("pullback", feeds, results, forward_feeds)
        return {of: results[name] for name, of in executor.gradients.items()}

    def _check_accumulable(self) -> None:
        if self._unfit:
            raise InputError(
                f"backward() accumulates into buffers of fixed size, but the gradient of {', '.join(self._unfit)} "
                "has a symbolic shape; use grad(), or fix the dims with free_dims"
            )

    @contextlib.contextmanager
    def detect_anomaly(self) -> Iterator[None]:
        """Within it, a call that gives NaN or an infinity raises, and says which node made it.

        As `torch.autograd.detect_anomaly`, for finding faults, since a call at fault runs twice more, and every call
        looks at its results: outputs must have no NaN (they may have infinities, as a mask does), a loss and
        gradients neither. What happens inside the graph and reaches none of these is no anomaly. Gradients that
        `backward` had accumulated before the fault are lost: call `zero_grad`. It holds for all threads, and for
        pullbacks: where `vjp` was called within it too, what a residual brings is traced into the forward part.

        Raises AnomalyError, which names the node, its forward node and rule, and the statistics of what it read.
        """
        before, self._detects_anomalies = self._detects_anomalies, True
        try:
            yield
        finally:
            self._detects_anomalies = before

    def vjp(
        self, inputs: Mapping[str, Array], *, loss: bool = False, as_ortvalues: bool = False
    ) -> tuple[dict[str, Result], Pullback]:
        """The outputs by name, and the pullback, which turns their cotangents into gradients as often as it is called.

        The forward part runs here, once; what the backward part needs of it is kept as long as the pullback is. See
        `torch.func.vjp`; a loss may be outside of the graph.

        Args:
            loss: give the loss too, if the program has one.
        """
        executor = self.executor("residuals")
        feeds = name_feeds(executor, self._fed, inputs, None)
        results = executor.run(feeds, self.parameters, as_ortvalues=True)
        if self._detects_anomalies:
            own = [port.name for port in executor.signature.outputs_of("output", "loss")]
            self._check_finite("residuals", feeds, {name: results[name] for name in own})
        known = {**inputs, **results}
        roles: tuple[OutputRole, ...] = ("output", "loss") if loss else ("output",)
        named = {port.name for port in executor.signature.outputs_of(*roles)}
        outputs = {name: value for name, value in results.items() if name in named}
        residuals = {name: known[name] for name in self.executor("pullback").fed}
        pullback = Pullback(self, residuals, feeds if self._detects_anomalies else None)
        return outputs if as_ortvalues else {k: np.array(v.numpy()) for k, v in outputs.items()}, pullback

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

    def executor(self, kind: Part, outputs: str | Sequence[str] | None = None) -> Executor:
        """The runtime session of one part of the program, built when it is first asked for.

        Args:
            outputs: which of its outputs a part that computes gradients from the inputs is to give; all if None.

        Raises InputError for a name that is none of them.
        """
        chosen = self._chosen(outputs)
        if (kind, chosen) in self._executors:
            return self._executors[kind, chosen]
        with self._build:
            if (kind, chosen) not in self._executors:
                model, signature = self._part(kind, chosen)
                self._executors[kind, chosen] = Executor(
                    model,
                    signature,
                    providers=self.providers,
                    options=self.options,
                    device=self.device,
                    fixed_addresses=self._fixed_addresses,
                )
            return self._executors[kind, chosen]

    def _chosen(self, outputs: str | Sequence[str] | None) -> tuple[str, ...] | None:
        """The names in *outputs* in the program's order, None if they are all it has."""
        if outputs is None:
            return None
        asked = (outputs,) if isinstance(outputs, str) else as_names(outputs)
        for name in asked:
            if name not in self._gives:
                names = ", ".join(map(repr, self._gives))
                raise InputError(f"outputs: the program gives no {name!r}; it gives {names}")
        chosen = tuple([name for name in self._gives if name in asked])
        return None if chosen == self._gives else chosen

    def _sums(self) -> dict[str, np.ndarray]:
        """What `backward` accumulated, by the names that the gradients have in the graph."""
        return {port.name: self.grads[name] for name, port in self._gradient_of.items()}

    def _check_finite(
        self,
        kind: Part,
        feeds: Mapping[str, Array],
        results: Mapping[str, Result],
        forward_feeds: Mapping[str, Array] | None = None,
        *,
        outputs: str | Sequence[str] | None = None,
    ) -> None:
        # Of the model's own outputs only NaN is a fault; a loss or a gradient must be finite.
        faults = not_finite(results, [port.name for port in self.program.signature.outputs_of("output")])
        if faults:
            run = self._repeat(kind, feeds, self._chosen(outputs))
            forward = self._repeat("residuals", forward_feeds) if kind == "pullback" else None
            raise explain(faults, run, forward, self.providers)

    def _repeat(self, kind: Part, feeds: Mapping[str, Array] | None, outputs: Sequence[str] | None = None) -> Run:
        if feeds is not None:
            feeds = {**self.executor(kind, outputs).unit_seeds, **feeds, **dict(self.parameters.items())}
        return Run(self._part(kind, outputs)[0], feeds)

    def _part(self, kind: Part, outputs: Sequence[str] | None = None) -> tuple[ir.Model, Signature]:
        program = self.program
        _check_not_half(program.signature, kind)
        if kind in ("forward", "loss"):
            return program.forward(loss=kind == "loss"), program.signature
        if kind in ("grad", "accumulate"):
            program = program.with_mode("grad" if kind == "grad" else "accumulate")
            if outputs is not None:
                gradients = [port.name for port in program.signature.outputs_of("gradient", "grad_buffer")]
                return program.executable({*outputs, *gradients}), program.signature
        else:
            if self._split is None:
                self._split = split_program(program, "fast")
            program = self._split.forward if kind == "residuals" else self._split.backward
            program = program.with_mode("accumulate" if kind == "pullback_accumulate" else "grad")
        return program.executable(), program.signature


def _check_not_half(signature: Signature, kind: Part) -> None:
    """Raise InputError where one model of a split program is to do the other's part."""
    missing = ""
    if kind in ("forward", "loss") and not any(signature.outputs_of("output", "loss")):
        missing = "This is the backward model of a split program, which has no outputs"
    if kind in ("grad", "accumulate") and not any(signature.outputs_of("gradient", "grad_buffer")):
        missing = "This is the forward model of a split program, which computes no gradients"
    if missing:
        raise InputError(f"{missing}; take the joint graph (compile without `split`), or both: SplitProgram.load")


def _moved(buffers: Buffers, layout: Layout) -> Buffers:
    moved = Buffers(layout, buffers.device)
    moved.update({name: np.array(array) for name, array in buffers.items()})
    return moved
