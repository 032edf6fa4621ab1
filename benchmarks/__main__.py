"""`python -m benchmarks`: measure, and write the report. `make bench` makes the environments first."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from .charts import draw_memory, draw_steps
from .compile_time import CompileTime, time_to_compile
from .export import exported
from .machine import describe_machine, load_average
from .measure import Measurement, Plan
from .peers import BASELINE, OURS, PEERS
from .processes import ROOT
from .report import Report
from .results import WorkloadResult
from .workloads import WORKLOADS

_HERE = Path(__file__).parent


def main(
    workloads: Annotated[str, typer.Option(help="Names, with commas between; all without.")] = "",
    peers: Annotated[str, typer.Option(help="Names, with commas between; all without.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="How often each peer is timed.")] = 10,
    seconds: Annotated[float, typer.Option(min=0.0, help="For each timing in each round.")] = 0.5,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds a peer has to compile.")] = 900.0,
    nodes: Annotated[int, typer.Option(help="Of the largest generated model that is compiled; 0 for none.")] = 50_000,
    note: Annotated[str, typer.Option(help="A sentence for the report: what else the machine was doing.")] = "",
    environments: Annotated[Path, typer.Option(help="The folder with the peers' environments.")] = ROOT / ".venv-bench",
    cache: Annotated[Path, typer.Option(help="The folder for exports, logs and raw numbers.")] = _HERE / ".cache",
    output: Annotated[Path, typer.Option(help="The folder for RESULTS.md and its charts.")] = _HERE,
) -> None:
    """Measure workloads with peers side by side, and write RESULTS.md."""
    chosen = _chosen(workloads, list(WORKLOADS), "workload")
    asked = _chosen(peers, list(PEERS), "peer")
    threads = torch.get_num_threads()
    plan = Plan(rounds, seconds, threads, timeout, environments, cache / "logs")
    console = Console(stderr=True)
    busy = load_average()
    versions: dict[str, str] = {}
    results: list[WorkloadResult] = []
    compiles: list[CompileTime] = []
    with console.status("") as status:
        if nodes and OURS in asked:
            time_to_compile(1)  # imports
            for size in (nodes // 50, nodes // 10, nodes):
                status.update(f"compile {size:,} nodes")
                compiles.append(time_to_compile(size))
        for i, name in enumerate(chosen):
            place = f"{name} ({i + 1} of {len(chosen)})"
            status.update(f"{place}: export")
            files = exported(WORKLOADS[name], cache)
            progress = lambda text, place=place: status.update(f"{place}: {text}")  # noqa: E731
            measurement = Measurement(files, WORKLOADS[name].summary, plan, progress)
            results.append(measurement.run(asked))
            versions |= measurement.versions
            console.print(_line(results[-1]))
            # After each workload, so that a run that is broken off leaves what it has.
            report = Report(results, compiles, describe_machine(), versions, plan, datetime.date.today(), busy, note)
            _write(report, output)
            (cache / "results.json").write_text(json.dumps([asdict(result) for result in results], indent=1))
    console.print(f"Wrote {output / 'RESULTS.md'} and its charts")


def _write(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draw_steps(report.results, folder / "step.png")
    draw_memory(report.results, folder / "memory.png")
    (folder / "RESULTS.md").write_text(report.markdown())


def _chosen(given: str, known: list[str], kind: str) -> list[str]:
    names = [name.strip() for name in given.split(",") if name.strip()] or known
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(f"there is no {kind} {unknown[0]!r}; there are {', '.join(known)}")
    return [name for name in known if name in names]


def _line(result: WorkloadResult) -> str:
    """One workload in one line, while the others are still to come."""
    parts = []
    for name, peer in result.peers.items():
        ratio = result.ratio(name, "step", BASELINE)
        if peer.failure:
            parts.append(f"{name} fails ({peer.failure[:80]})")
        elif ratio:
            parts.append(f"{name} {ratio.median:.2f}")
    return f"{result.name}: " + ", ".join(parts)


if __name__ == "__main__":
    typer.run(main)
