"""Which ONNX operators each architecture contains, by exporter: `python -m tests.zoo.operators`."""

from collections import Counter
from collections.abc import Iterator
from typing import get_args

import onnx

from . import light_models
from .exports import EXPORTS, Exporter


def operators(graph: onnx.GraphProto) -> Iterator[str]:
    """The operator of every node, those in subgraphs included; other domains than ai.onnx are named."""
    for node in graph.node:
        yield f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from operators(attribute.g)


def census() -> dict[tuple[str, str], Counter[str]]:
    """Operator counts by (exporter, architecture); for an exporter, the static and the dynamic export together."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for export in EXPORTS:
        key = (export.exporter, export.architecture.name)
        counts.setdefault(key, Counter()).update(operators(export.to_onnx(export.architecture.build()).graph))
    for name in light_models.NAMES:
        counts["light", name] = Counter(operators(light_models.load(name).graph))
    return counts


def main() -> None:
    counts = census()
    for exporter in (*get_args(Exporter), "light"):
        architectures = {name: count for (by, name), count in counts.items() if by == exporter}
        total = sum(architectures.values(), Counter[str]())
        print(f"\n## {exporter}: {len(total)} operators\n\n| operator | nodes | architectures |\n|---|---|---|")
        for operator, nodes in total.most_common():
            print(f"| {operator} | {nodes} | {', '.join(n for n, c in architectures.items() if operator in c)} |")
    print(f"\n## all: {' '.join(sorted(set().union(*counts.values())))}")


if __name__ == "__main__":
    main()
