"""Optimizers: SGD, Adam and AdamW of a session's parameters, updated in place where they lie."""

from __future__ import annotations

import fnmatch
import itertools
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ..compiler.clipping import ROW, clip_coefficients, clip_factor, squared_norm_model
from ..compiler.optimizers import BLOCK, AdamRule, SGDRule, UpdateRule, update_model
from ..compiler.parameters import nearest
from ..passes.errors import Error, InputError
from .buffers import Buffers, np_dtype
from .executor import session_options
from .flat_graph import BoundGraph, FlatGraph, Segment
from .session import Session

BLOCKED_FROM = 4 * BLOCK
"""Elements from which an update on the CPU goes block by block, on as many threads as the session's options say, each
with a share of the blocks to itself. Fewer elements stay in the cache anyway, and are not worth a thread."""


@dataclass(frozen=True)
class _Group:
    names: tuple[str, ...]
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class _Update:
    """What a step does to a group's range of the flat buffers of one dtype, in a share for each thread."""

    group: _Group
    rule: UpdateRule
    shares: Sequence[BoundGraph]


class Optimizer(ABC):
    """Updates the parameters of a session in place, from the gradients that `backward` accumulated.

    States have the dtype of their parameter, as in PyTorch. A session has one optimizer: the parameters are laid out
    group by group when it is made, so `session.parameters` and `session.grads` are to be read afterwards.

    Args of all optimizers:
        session: with parameters; those that have no gradient are left as they are.
        lr: the learning rate.
        weight_decay: the share of the parameter that is added to the gradient, or, in AdamW, that it loses a step,
            times the learning rate.
        groups: parameters with other options: dicts with `parameters`, a glob pattern or several, and `lr`,
            `weight_decay` or both. A parameter belongs to the first group that names it.

    Raises InputError for an option out of its range, an unknown one in a group, and a pattern that matches nothing.
    """

    def __init__(self, session: Session, *, groups: Sequence[Mapping[str, Any]] | None, **options: Any) -> None:
        self._session = session
        self._options = options
        self._given_groups = [dict(group) for group in groups or ()]
        self._groups = _resolve_groups(session, self._given_groups, options["lr"], options["weight_decay"])
        slots = session.parameters.layout.slots
        elements = sum(slots[name].size for group in self._groups for name in group.names)
        self._blocked = session.device.kind == "cpu" and elements >= BLOCKED_FROM
        self._ranges = session.arrange([group.names for group in self._groups], block=BLOCK if self._blocked else ROW)
        self._layout = session.parameters.layout
        self._step = 0
        self._states = {name: Buffers(self._layout, session.device) for name in self._rule(decays=False).states}
        self._graphs: dict[tuple[str, UpdateRule | None, bool, bool], FlatGraph] = {}
        self._planned: dict[tuple[bool, bool], Sequence[_Update]] = {}
        threads = (session.options.intra_op_num_threads if session.options else 0) or os.cpu_count() or 1
        self._threads = threads if self._blocked else 1
        self._others = ThreadPoolExecutor(max(1, self._threads - 1), thread_name_prefix="onnxgrad-optimizer")

    @abstractmethod
    def _rule(self, *, decays: bool) -> UpdateRule: ...

    @property
    def learning_rate(self) -> float:
        """The learning rate before any schedule."""
        return float(self._options["lr"])

    def step(
        self,
        *,
        rate_factor: float = 1.0,
        grad_scale: float = 1.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> float | None:
        """Update the parameters once. The gradients stay as they are: clear them with `session.zero_grad()`.

        Args:
            rate_factor: on the learning rate of every group (a schedule's).
            grad_scale: on the gradients, before they are clipped (1 / micro-batches); more than 0.
            clip_norm: the largest global norm of the gradients (`torch.nn.utils.clip_grad_norm_`).
            clip_value: the largest magnitude of a gradient element (`clip_grad_value_`); applied first.

        Returns:
            the norm of the scaled gradients as *clip_norm* finds it, None without *clip_norm*.

        Raises Error if that norm is no finite number, and InputError for arguments that are not more than 0;
        nothing is changed then.
        """
        if self._session.parameters.layout is not self._layout:
            raise InputError("The session's parameters belong to an optimizer made later; use that one")
        for name, value in (("grad_scale", grad_scale), ("clip_norm", clip_norm), ("clip_value", clip_value)):
            if value is not None and not value > 0:
                raise InputError(f"{name} is more than 0, not {value}")
        norm, factor = None, 1.0
        if clip_norm is not None:
            norm = self._grad_norm(grad_scale, clip_value)
            if not math.isfinite(norm):
                raise Error(f"The norm of the gradients is {norm}, so the parameters were not updated")
            factor = clip_factor(norm, clip_norm)
        clipping = clip_coefficients(grad_scale=grad_scale, value=clip_value, factor=factor)
        updates = self._updates(clip_value=clip_value is not None, scaled=clipping["grad_scale"] != 1.0)
        self._step += 1
        scalars = [
            update.rule.coefficients(self._step, update.group.lr * rate_factor, update.group.weight_decay) | clipping
            for update in updates
        ]
        others = [self._others.submit(_run_share, updates, scalars, share) for share in range(1, self._threads)]
        _run_share(updates, scalars, 0)
        for other in others:
            other.result()
        return norm

    def _updates(self, *, clip_value: bool, scaled: bool) -> Sequence[_Update]:
        """What a step does, planned when it is first needed."""
        key = (clip_value, scaled)
        if key not in self._planned:
            updates = []
            for group, ranges in zip(self._groups, self._ranges, strict=True):
                rule = self._rule(decays=group.weight_decay != 0)
                for dtype, span in ranges.items():
                    graph = self._graph(dtype, rule, clip_value=clip_value, scaled=scaled)
                    updates.append(_Update(group, rule, [graph.on(segment) for segment in self._shares(dtype, span)]))
            self._planned[key] = updates
        return self._planned[key]

    def _shares(self, dtype: str, span: range) -> Iterator[Segment]:
        """*span* in a segment for each thread, of whole blocks; fewer where there are fewer blocks."""
        if not self._blocked:
            yield Segment(dtype, span.start, (1, len(span)))
            return
        blocks = len(span) // BLOCK
        bounds = [blocks * each // self._threads for each in range(self._threads + 1)]
        for first, end in itertools.pairwise(bounds):
            if first < end:
                yield Segment(dtype, span.start + first * BLOCK, (end - first, 1, BLOCK))

    def state(self) -> dict[str, np.ndarray]:
        """A copy of the states by parameter (`fc.weight/exp_avg`), and the number of steps made (`step`)."""
        state = {"step": np.array(self._step, np.int64)}
        for kind, buffers in self._states.items():
            arrays = dict(buffers.items())
            state |= {f"{name}/{kind}": np.array(arrays[name]) for name in self._names()}
        return state

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from what `state` gave.

        Raises InputError if names, shapes or dtypes differ from this optimizer's; nothing is changed then.
        """
        expected = self.state()
        for name in sorted(expected.keys() ^ state.keys()):
            lack = "lacks" if name in expected else "has an unknown"
            raise InputError(f"The optimizer state {lack} {name!r}; it is not of {self.describe()} of this model")
        for name, array in expected.items():
            if state[name].shape != array.shape or state[name].dtype != array.dtype:
                raise InputError(
                    f"The optimizer state {name!r} is {state[name].dtype}{list(state[name].shape)}, "
                    f"not {array.dtype}{list(array.shape)}"
                )
        for kind, buffers in self._states.items():
            buffers.update({name: state[f"{name}/{kind}"] for name in self._names()})
        self._step = int(state["step"])

    def describe(self) -> str:
        """The kind of optimizer with its options, as it would be made."""
        options = [f"{name}={value!r}" for name, value in self._options.items()]
        if self._given_groups:
            options.append(f"groups={self._given_groups!r}")
        return f"{type(self).__name__}({', '.join(options)})"

    def _names(self) -> Iterator[str]:
        return (name for group in self._groups for name in group.names)

    def _grad_norm(self, grad_scale: float, clip_value: float | None) -> float:
        bounds = clip_coefficients(grad_scale=grad_scale, value=clip_value, factor=1.0)
        total = 0.0
        for ranges in self._ranges:
            for dtype, span in ranges.items():
                graph = self._graph(dtype, None, clip_value=clip_value is not None, scaled=False)
                norms = graph.on(Segment(dtype, span.start, (len(span) // ROW, ROW))).run(bounds)["squared_norms"]
                total += float(norms.sum(dtype=np.float64))
        return math.sqrt(total) * grad_scale

    def _graph(self, dtype: str, rule: UpdateRule | None, *, clip_value: bool, scaled: bool) -> FlatGraph:
        """The graph of the update by *rule*, or of the norm without one, built when it is first needed."""
        key = (dtype, rule, clip_value, scaled)
        if key not in self._graphs:
            element = ir.DataType.from_numpy(np_dtype(dtype))
            session = self._session
            buffers, options = {"gradient": session.grads}, session.options
            if rule is None:
                model = squared_norm_model(element, clip_value=clip_value)
            else:
                gemm = session.device.kind == "cpu"
                model = update_model(
                    rule, element, blocked=self._blocked, gemm=gemm, clip_value=clip_value, scaled=scaled
                )
                buffers |= {"parameter": session.parameters, **self._states}
                options = session_options(1) if self._blocked else options
            self._graphs[key] = FlatGraph(
                model, buffers, providers=session.providers, options=options, device=session.device
            )
        return self._graphs[key]


class SGD(Optimizer):
    """Stochastic gradient descent (`torch.optim.SGD`), with the arguments and defaults of PyTorch.

    Args:
        momentum: the share of the momentum buffer that stays.
        dampening: the share of the gradient that does not enter the momentum buffer.
        nesterov: look ahead along the momentum; needs *momentum*, and no *dampening*.
    """

    def __init__(
        self,
        session: Session,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        groups: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        _check("momentum", momentum)
        if nesterov and (momentum == 0 or dampening != 0):
            raise InputError("Nesterov momentum needs momentum, and no dampening")
        self._momentum, self._dampening, self._nesterov = momentum, dampening, nesterov
        super().__init__(
            session,
            groups=groups,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
        )

    def _rule(self, *, decays: bool) -> SGDRule:
        return SGDRule(self._momentum, self._dampening, self._nesterov, decays)


class Adam(Optimizer):
    """Adam (`torch.optim.Adam`), with the arguments and defaults of PyTorch.

    Args:
        betas: how much of the running means of the gradient and of its square stays each step.
        eps: added to the root of the mean square.
    """

    _decoupled = False

    def __init__(
        self,
        session: Session,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        groups: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        _check("eps", eps)
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise InputError(f"betas are at least 0 and less than 1, not {betas}")
        self._betas, self._eps = (float(betas[0]), float(betas[1])), eps
        super().__init__(session, groups=groups, lr=lr, betas=self._betas, eps=eps, weight_decay=weight_decay)

    def _rule(self, *, decays: bool) -> AdamRule:
        return AdamRule(self._betas, self._eps, self._decoupled, decays)


class AdamW(Adam):
    """Adam with decoupled weight decay (`torch.optim.AdamW`): the arguments of `Adam`, PyTorch's defaults."""

    _decoupled = True

    def __init__(
        self,
        session: Session,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        groups: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(session, lr, betas, eps, weight_decay, groups=groups)


def _run_share(updates: Sequence[_Update], scalars: Sequence[Mapping[str, float]], share: int) -> None:
    """Run one thread's share of *updates*."""
    for update, values in zip(updates, scalars, strict=True):
        if share < len(update.shares):
            update.shares[share].run(values)


def _resolve_groups(
    session: Session, given: Sequence[Mapping[str, Any]], lr: float, weight_decay: float
) -> list[_Group]:
    """Distribute the parameters that have a gradient; those that no group names form the last one."""
    trained = [name for name in session.parameters if name in session.grads]
    left = dict.fromkeys(trained)
    groups = []
    for options in [*given, {"parameters": left}]:
        if "parameters" not in options or not options.keys() <= {"parameters", "lr", "weight_decay"}:
            raise InputError(f"A group has parameters, lr and weight_decay, not {', '.join(options)}")
        patterns = options["parameters"]
        names = [name for name in _matching(patterns, trained) if name in left]
        for name in names:
            del left[name]
        group = _Group(tuple(names), options.get("lr", lr), options.get("weight_decay", weight_decay))
        _check("lr", group.lr)
        _check("weight_decay", group.weight_decay)
        if names:
            groups.append(group)
    return groups


def _matching(patterns: str | Iterable[str], names: Sequence[str]) -> list[str]:
    """The *names* that match one of *patterns*, in their order. Raises InputError for a pattern that matches none."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        if pattern not in names and not fnmatch.filter(names, pattern):
            raise InputError(f"groups: no parameter with a gradient matches {pattern!r}{nearest(pattern, names)}")
    return [name for name in names if any(name == p or fnmatch.fnmatchcase(name, p) for p in patterns)]


def _check(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise InputError(f"{name} is at least 0 and finite, not {value}")
