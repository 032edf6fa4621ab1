"""Accuracy, on the shapes of classifiers and of language models."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from onnxgrad.passes.errors import InputError
from onnxgrad.runtime.metrics import accuracy

SCORES = np.array([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5], [0.4, 0.3, 0.3]], np.float32)


def test_the_share_of_hits() -> None:
    assert accuracy("logits")({"logits": SCORES}, {"labels": np.array([1, 0, 1, 2])}) == 0.5


def test_ignored_labels_do_not_count() -> None:
    labels = np.array([1, -100, 1, -100])
    assert accuracy("logits")({"logits": SCORES}, {"labels": labels}) == 0.5
    assert accuracy("logits", ignore_index=1)({"logits": SCORES}, {"labels": np.array([1, 0, 2, 1])}) == 1.0
    assert accuracy("logits")({"logits": SCORES}, {"labels": np.full(4, -100)}) == 0.0


def test_classes_are_on_axis_1() -> None:
    scores = np.stack([SCORES, SCORES[::-1]]).transpose(0, 2, 1)
    labels = np.array([[1, 0, 2, 0], [0, 0, 0, 0]])
    assert accuracy("y", "t")({"y": scores}, {"t": labels}) == 6 / 8


def test_one_sample_without_a_batch_axis() -> None:
    assert accuracy("y")({"y": SCORES[0]}, {"labels": np.array(1)}) == 1.0


def test_ort_values() -> None:
    value = ort.OrtValue.ortvalue_from_numpy(SCORES)
    labels = ort.OrtValue.ortvalue_from_numpy(np.array([1, 0, 2, 2]))
    assert accuracy("y")({"y": value}, {"labels": labels}) == 0.75


def test_missing_names_are_named() -> None:
    with pytest.raises(InputError, match="'logits' and the input 'labels'"):
        accuracy("logits")({"y": SCORES}, {"labels": np.zeros(4)})
