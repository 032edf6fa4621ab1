"""Aims are compared with what was measured."""

from __future__ import annotations

import pytest

from benchmarks.aims import Aim, find_aims
from benchmarks.compile_time import CompileTime
from benchmarks.results import PeerResult, WorkloadResult


def workload(name: str, **steps: float) -> WorkloadResult:
    """With the seconds of a step, and of a forward pass a third of those, of each peer; rounds differ alike."""
    result = WorkloadResult(name, "", flops=1, nodes=1, size=1)
    for peer, seconds in steps.items():
        timed = {"step": [seconds, 2 * seconds], "forward": [seconds / 3, 2 * seconds / 3]}
        result.peers[peer.replace("_", "-")] = PeerResult(timed, peak=100)
    return result


def aim(text: str, results: list[WorkloadResult], compiles: list[CompileTime] | None = None) -> Aim:
    (found,) = [each for each in find_aims(results, compiles or []) if each.text == text]
    return found


def test_step_is_held_against_the_fastest_peer() -> None:
    results = [workload("mlp", onnxgrad=2.0, eager=4.0), workload("bert", onnxgrad=3.0, eager=2.0, jax=1.0)]
    found = aim("step, to the best peer", results)
    assert found.measured == pytest.approx({"mlp": 0.5, "bert": 3.0})
    assert list(found.missed) == ["bert"]
    assert found.worst == 3.0
    overall = aim("step, to the best peer: geometric mean", results)
    assert overall.measured["all"] == pytest.approx(1.5**0.5)


def test_failed_peers_and_own_configurations_are_no_peers() -> None:
    result = workload("bert", onnxgrad=2.0, onnxgrad_checkpoint=1.0, eager=4.0, jax=1.0)
    result.peers["jax"].failure = "wrong gradient"
    found = find_aims([result], [])
    assert next(each for each in found if each.text == "step, to the best peer").measured == {"bert": 0.5}
    assert aim("step with checkpoints, to a step without", [result]).measured == {"bert": 0.5}


def test_at_least() -> None:
    result = workload("bert", onnxgrad=1.0, eager=1.0)
    result.peers["torch.compile"] = PeerResult(compile=0.0, load=10.0, first_step=5.0)
    own = result.peers["onnxgrad"]
    own.compile, own.load, own.first_step = 1.0, 0.5, 0.5
    found = aim("torch.compile's time to the first step, to onnxgrad's", [result])
    assert found.missed == {"bert": 7.5}
    own.compile = 0.1
    assert not aim(found.text, [result]).missed


def test_what_was_not_measured_is_left_out() -> None:
    texts = [each.text for each in find_aims([workload("lstm", eager=1.0)], [CompileTime(2000, 3.0)])]
    assert texts == ["seconds to compile 1,000 nodes"]
    assert aim(texts[0], [], [CompileTime(2000, 3.0)]).missed == {"2,000 nodes": 1.5}
