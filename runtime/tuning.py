"""Tuning: the forms of a gradient measured on the device, and the fastest taken."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from ..passes.eliminate_common_subexpressions import EliminateCommonSubexpressions
from ..passes.errors import Error
from ..passes.forms import Alternatives
from ..passes.lower_correlations import LowerCorrelations
from ..passes.lower_opset import LowerOpset
from ..passes.memory_of_values import size_of_dim
from ..passes.peak_memory import estimate_peak
from ..passes.registry import Registry
from ..passes.simplify import Simplify
from ..passes.tape import CANONICAL_OPSET, Tape
from .device import Provider, describe_device, device_of, resolve_providers
from .executor import create_session, run_bound, session_options
from .timing import time_in_turns
from .tuning_cache import TuningCache

_MEASURED = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})
"""The dtypes of operands other than positions of which there are random ones."""
_HOPELESS = 1.5
"""A form that takes as many times as long as the fastest in the first round is not measured again."""
_MOST_BYTES = 4 << 30
"""A form that needs more memory than this, operands included, is not measured."""
_ROUNDS = 5
_GAIN = 0.97
"""The expected form is kept if the fastest does not take less than this share of its time: so small a difference
may be chance."""


class Tuner:
    """Chooses the fastest of several exact forms by measuring them (`compile(…, tune=Tuner())`).

    Each form becomes a small graph that runs in ONNX Runtime on random operands, in turns with the others. What was
    measured is remembered (`TuningCache`) under the operands' sizes and dtypes, the forms, the provider, the device,
    the number of threads, and the versions of ONNX Runtime and onnxgrad; the next time nothing is measured.

    Args:
        sizes: of symbolic dims, by name; one that is not among them counts as 32.
        providers: as a `Session` takes them.
        threads: how many work on one operator; one a core if None.
        cache: where measurements are remembered; in the user's cache directory if None.
        on_measure: called with what is about to be measured.

    Raises InputError for an unknown provider; when called, Error for a cache that cannot be read or written.
    """

    def __init__(
        self,
        sizes: Mapping[str, int] | None = None,
        *,
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
        cache: TuningCache | None = None,
        on_measure: Callable[[str], None] | None = None,
    ) -> None:
        self._sizes = dict(sizes or {})
        self._providers = resolve_providers(providers)
        self._threads = threads
        self._cache = cache or TuningCache()
        self._on_measure = on_measure or (lambda _: None)
        self._device = device_of(self._providers)
        self._where = {
            "providers": self._providers,
            "device": describe_device(self._device),
            "threads": threads or os.cpu_count(),
            "onnxruntime": ort.__version__,
            "onnxgrad": version("onnxgrad"),
        }

    def __call__(self, alternatives: Alternatives) -> str:
        """The name of the form to take."""
        if len(alternatives.forms) == 1 or not _has_samples(alternatives):
            return alternatives.expected
        shapes = [
            [size_of_dim(dim, self._sizes) for dim in operand.value.shape or ()] for operand in alternatives.operands
        ]
        key = self._where | {
            "family": alternatives.family,
            "operands": [
                [operand.dtype.name, *shape] for operand, shape in zip(alternatives.operands, shapes, strict=True)
            ],
            "attributes": alternatives.attributes,
            "forms": sorted(alternatives.forms),
        }
        seconds = self._cache.get(key)
        if seconds is None:
            self._on_measure(f"{alternatives.family}, {' · '.join('×'.join(map(str, shape)) for shape in shapes)}")
            seconds = self._measure(alternatives, shapes)
            self._cache.put(key, seconds)
        return _fastest(seconds, alternatives.expected)

    def _measure(self, alternatives: Alternatives, shapes: Sequence[Sequence[int]]) -> dict[str, float]:
        """Seconds of each form that the runtime can run; of those that turn out as the same graph only of one."""
        operand_bytes = sum(
            math.prod(shape) * operand.dtype.itemsize
            for operand, shape in zip(alternatives.operands, shapes, strict=True)
        )
        if operand_bytes > _MOST_BYTES:
            return {}
        feeds = self._sample(alternatives, shapes)
        actions: dict[str, Callable[[], object]] = {}
        known: set[bytes] = set()
        for form in sorted(alternatives.forms, key=lambda name: name != alternatives.expected):
            model = self._as_model(alternatives, form)
            text = ir.to_proto(model).SerializeToString(deterministic=True)
            if text in known:
                continue
            known.add(text)
            if operand_bytes + estimate_peak(model.graph, self._sizes).bytes > _MOST_BYTES:
                continue
            try:
                run = self._load(model, feeds)
                run()
            except Error:
                continue  # the provider lacks a kernel
            actions[form] = run
        if not actions:
            return {}
        first = {form: float(values[0]) for form, values in time_in_turns(actions, 1).items()}
        best = min(first.values())
        close = {form: run for form, run in actions.items() if first[form] <= _HOPELESS * best}
        if len(close) == 1:
            return first
        more = time_in_turns(close, _ROUNDS)
        return first | {form: min(first[form], float(values.min())) for form, values in more.items()}

    def _sample(self, alternatives: Alternatives, shapes: Sequence[Sequence[int]]) -> list[ort.OrtValue]:
        """Operands on the device."""
        generator = np.random.default_rng(0)
        feeds = []
        for index, (operand, shape) in enumerate(zip(alternatives.operands, shapes, strict=True)):
            if index in alternatives.positions:
                indexed, axis = alternatives.positions[index]
                array = generator.integers(shapes[indexed][axis], size=shape, dtype=operand.dtype.numpy())
            else:
                array = generator.standard_normal(shape, np.float32).astype(operand.dtype.numpy(), copy=False)
            feeds.append(ort.OrtValue.ortvalue_from_numpy(array, self._device.kind, self._device.index))
        return feeds

    def _load(self, model: ir.Model, feeds: Sequence[ort.OrtValue]) -> Callable[[], object]:
        """What runs *model* once."""
        session = create_session(model, self._providers, session_options(self._threads))
        binding = session.io_binding()
        for value, feed in zip(model.graph.inputs, feeds, strict=True):
            binding.bind_ortvalue_input(str(value.name), feed)
        for output in model.graph.outputs:
            binding.bind_output(str(output.name), self._device.kind, self._device.index)

        def run() -> None:
            run_bound(session, binding)

        return run

    def _as_model(self, alternatives: Alternatives, form: str) -> ir.Model:
        """A graph from the operands to the cotangent, simplified as the joint graph is."""
        graph = ir.Graph([], [], nodes=[], opset_imports={"": CANONICAL_OPSET}, name="form")
        tape = Tape(graph)
        operands = [
            tape.argument("operand", operand.dtype, operand.shape if operand.value.shape is not None else None)
            for operand in alternatives.operands
        ]
        tape.returns(alternatives.forms[form](*operands))
        rules = Registry(choose=self)
        model = ir.Model(graph, ir_version=13)
        passes = (Simplify(), EliminateCommonSubexpressions(), Simplify(), LowerOpset(), LowerCorrelations(rules))
        for step in passes:
            step.call(model)
        return model


def _has_samples(alternatives: Alternatives) -> bool:
    """Whether there are random operands: floats, and positions along an axis of one of them."""
    return all(
        operand.dtype in _MEASURED or index in alternatives.positions
        for index, operand in enumerate(alternatives.operands)
    )


def _fastest(seconds: Mapping[str, float], expected: str) -> str:
    best = min(seconds, key=lambda form: seconds[form], default=expected)
    return best if best in seconds and seconds[best] < _GAIN * seconds.get(expected, math.inf) else expected
