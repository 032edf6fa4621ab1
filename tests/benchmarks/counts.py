"""What the compiler makes of each workload of the benchmark, in numbers that no clock measures.

`python -m tests.benchmarks.counts > tests/benchmarks/counts.txt` writes the table anew.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Self

import onnxgrad
from benchmarks.export import export_forward
from benchmarks.workloads import WORKLOADS, Workload
from onnxgrad.passes.flops import count_flops
from onnxgrad.passes.peak_memory import estimate_peak

TABLE = Path(__file__).with_name("counts.txt")


@dataclass(frozen=True)
class Counts:
    """Of the joint graph of one workload: its loss and the gradients of all parameters.

    Attributes:
        nodes: how many.
        products: floating-point operations in matrix products and convolutions.
        others: floating-point operations in all else.
        peak: bytes of the activations that live at the same time at most, estimated.
    """

    nodes: int
    products: int
    others: int
    peak: int

    @classmethod
    def of(cls, workload: Workload) -> Self:
        inputs, _ = workload.batch()
        graph = onnxgrad.compile(export_forward(workload.module(), inputs), loss="cross_entropy").model.graph
        flops = count_flops(graph)
        return cls(sum(1 for _ in graph.all_nodes()), flops.products, flops.others, estimate_peak(graph).bytes)


def read_table() -> dict[str, Counts]:
    """The expected counts by workload."""
    _, *rows = (line.split() for line in TABLE.read_text().splitlines() if line and not line.startswith("#"))
    return {name: Counts(*(int(number.replace(",", "")) for number in numbers)) for name, *numbers in rows}


def table(counts: dict[str, Counts]) -> str:
    """The text of the table."""
    lines = ["# Written by: python -m tests.benchmarks.counts > tests/benchmarks/counts.txt"]
    lines.append(f"{'':10}" + "".join(f"{field.name:>18}" for field in fields(Counts)))
    lines += [f"{name:10}" + "".join(f"{number:18,}" for number in astuple(each)) for name, each in counts.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table({name: Counts.of(workload) for name, workload in WORKLOADS.items()}))
