"""How fast a program is on this machine, beside the forward model on the stock runtime."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ..compiler.program import Program
from ..compiler.save import save_proto
from ..passes.errors import Error
from .device import Provider, resolve_providers
from .executor import session_options
from .optimizer import AdamW
from .peak_memory import LoadedProgram, measure_in_fresh_process, step
from .session import Session
from .timing import Spread, time_in_turns

STEP = "step"
INFERENCE = "inference"
FORWARD = "forward"
STEP_AND_ADAMW = "step_and_adamw"
ADAMW = "adamw"


@dataclass(frozen=True)
class Benchmark:
    """What was measured of a program.

    Attributes:
        seconds: of one call, by action: `step` (forward and backward, in the program's mode), `forward` (the forward
            part of the joint graph, with the loss), `inference` (the forward model in a session of the stock runtime),
            `step_and_adamw` (`Session.backward`, the update, and the clearing of the gradients) and `adamw`; those that
            apply.
        ratios: `step` to `forward` and to `inference`, of the timings of one round each.
        loaded: what a process of its own measured.
        left_out: why an action is not there, by its name.
    """

    seconds: Mapping[str, Spread]
    ratios: Mapping[str, Spread]
    loaded: LoadedProgram
    left_out: Mapping[str, str]


def benchmark(
    program: Program,
    path: str | os.PathLike[str],
    inputs: Mapping[str, np.ndarray],
    grad_outputs: Mapping[str, np.ndarray],
    *,
    rounds: int = 20,
    providers: Sequence[Provider] | None = None,
    threads: int | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Benchmark:
    """Measure *program*, interleaved in one run.

    Args:
        path: the file of the program, for the process that measures memory.
        inputs, grad_outputs: as `Session.grad` takes them, host arrays.
        rounds: how many times each action is measured.
        providers, threads: for all sessions alike.
        on_progress: called with what begins, once for each round too.

    Raises InputError for inputs that do not fit, and Error when the runtime cannot run a graph.
    """
    tell = on_progress or (lambda _: None)
    chosen = resolve_providers(providers)
    session = Session(program, providers=chosen, options=session_options(threads, program.model.graph))
    left_out: dict[str, str] = {}

    tell("loading")
    actions: dict[str, Callable[[], object]] = {}
    # The optimizer lays the buffers out anew, so it comes first.
    optimizer = _optimizer(session, left_out)
    actions[STEP] = lambda: step(session, inputs, grad_outputs)
    with_loss = program.signature.loss is not None
    actions[FORWARD] = lambda: session.run(inputs, loss=with_loss)
    inference = _inference(program, inputs, chosen, threads, left_out)
    if inference is not None:
        actions[INFERENCE] = inference
    if optimizer is not None:

        def step_and_update() -> None:
            session.backward(inputs, grad_outputs)
            optimizer.step()
            session.zero_grad()

        actions[STEP_AND_ADAMW] = step_and_update
        actions[ADAMW] = optimizer.step
    tell("warming up")
    seconds = time_in_turns(actions, rounds, lambda: tell("measuring"))
    tell("measuring memory")
    loaded = measure_in_fresh_process(path, inputs, grad_outputs, providers=providers, threads=threads)
    return Benchmark(
        {name: Spread.of(values) for name, values in seconds.items()},
        {name: Spread.of(seconds[STEP] / seconds[name]) for name in (FORWARD, INFERENCE) if name in seconds},
        loaded,
        left_out,
    )


def _optimizer(session: Session, left_out: dict[str, str]) -> AdamW | None:
    """AdamW of the differentiated parameters, which it leaves as they are (a rate of 0); None if it cannot be."""
    gradients = [str(port.of) for port in session.program.signature.outputs_of("gradient", "grad_buffer")]
    unfit = [name for name in gradients if name not in session.grads]
    if not any(name in session.parameters for name in gradients):
        left_out[ADAMW] = "no parameter was differentiated"
    elif unfit:
        left_out[ADAMW] = f"the gradient of {unfit[0]!r} has a symbolic shape, so it cannot be accumulated"
    else:
        return AdamW(session, lr=0.0)
    return None


def _inference(
    program: Program,
    inputs: Mapping[str, np.ndarray],
    providers: Sequence[Provider],
    threads: int | None,
    left_out: dict[str, str],
) -> Callable[[], object] | None:
    """A run of the forward model as it was given to the compiler, by the runtime's own defaults."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "forward.onnx"
            save_proto(program.original(), file)
            stock = ort.InferenceSession(file, options, providers=list(providers))
        feeds = {value.name: inputs[value.name] for value in stock.get_inputs() if value.name in inputs}
        stock.run(None, feeds)
    except Error as error:
        left_out[INFERENCE] = str(error)
        return None
    except Exception as error:
        left_out[INFERENCE] = f"ONNX Runtime could not run the forward model: {str(error).splitlines()[0]}"
        return None
    return lambda: stock.run(None, feeds)
