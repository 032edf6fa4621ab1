"""Metrics of a batch, from the outputs and the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..passes.errors import InputError
from .feeds import to_numpy

Metric = Callable[[Mapping[str, Any], Mapping[str, Any]], float]


def accuracy(output: str, label: str = "labels", *, ignore_index: int = -100) -> Metric:
    """The share of labels that are the most likely class.

    Args:
        output: the name of the scores, with the classes on axis 1 (on axis 0 without a batch).
        label: the name of the class indices; those equal to *ignore_index* do not count.

    The metric raises InputError if there is no output or input of these names.
    """

    def measure(outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> float:
        if output not in outputs or label not in batch:
            raise InputError(f"Accuracy is measured on the output {output!r} and the input {label!r}; one is not there")
        scores, labels = to_numpy(outputs[output]), to_numpy(batch[label])
        counted = labels != ignore_index
        hits = (scores.argmax(axis=min(1, scores.ndim - 1)) == labels) & counted
        return float(hits.sum() / max(int(counted.sum()), 1))

    return measure
