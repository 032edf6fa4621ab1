"""Compiling takes time in proportion to the number of nodes."""

from __future__ import annotations

import time

import onnxgrad
from benchmarks.compile_time import residual_network


def seconds_to_compile(blocks: int) -> float:
    model = residual_network(blocks)
    start = time.process_time()
    program = onnxgrad.compile(model)
    seconds = time.process_time() - start
    assert len(program.parameters) == 4 * blocks
    return seconds


def test_compile_time_is_linear() -> None:
    seconds_to_compile(1)  # imports
    few, many = min(seconds_to_compile(80) for _ in range(2)), seconds_to_compile(480)
    assert many < 12 * few  # 6 would be exact, 36 quadratic


def test_no_node_is_emitted_to_be_removed_again() -> None:
    program = onnxgrad.compile(residual_network(3))
    nodes = {record.name: record.nodes_after for record in program.report}
    assert nodes["Differentiate"] == len(program.model.graph)


def test_what_is_simple_is_simplified_once() -> None:
    names = [record.name for record in onnxgrad.compile(residual_network(3)).report]
    assert names.count("Simplify") == 1
