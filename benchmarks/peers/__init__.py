"""The peers by name, in the order of the tables."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PeerEntry:
    """Where a peer is.

    Attributes:
        name: as the tables call it.
        module: the file in this folder.
        environment: the folder of its environment, None for the driver's own.
        summary: what is run, for the report.
        workloads: those that it was written for; None for all.
        trains: whether it has steps, so that it stands in most tables.
        ours: whether it is onnxgrad in another configuration, which is no peer to onnxgrad.
    """

    name: str
    module: str
    environment: str | None
    summary: str
    workloads: tuple[str, ...] | None = None
    trains: bool = True
    ours: bool = False


BASELINE = "eager"
"""The peer that all ratios are to, and whose gradients are the reference."""
OURS, CHECKPOINTED, OVERHEAD = "onnxgrad", "onnxgrad-checkpoint", "overhead"

_ENTRIES = (
    PeerEntry(OURS, "onnxgrad_session", None, "`onnxgrad.compile`, `session.value_and_grad` of the loss", ours=True),
    PeerEntry(
        CHECKPOINTED,
        "onnxgrad_checkpoint",
        None,
        'the same, compiled with `checkpoint="auto"`',
        ("vit", "bert", "gpt2"),
        ours=True,
    ),
    PeerEntry(BASELINE, "eager", None, "PyTorch: `loss.backward()`"),
    PeerEntry("torch.compile", "torch_compile", None, "PyTorch, module and loss compiled by `torch.compile`"),
    PeerEntry(
        "ort-training",
        "onnxruntime_training",
        "ort-training",
        "onnxruntime-training-cpu: `artifacts.generate_artifacts`, `api.Module`",
    ),
    PeerEntry("onnx-ad", "onnx_ad_reverse", "onnx-ad", "onnx-ad: `reverse`, run by ONNX Runtime"),
    PeerEntry("onnxsim", "onnxsim_training", "onnxsim", "onnxsim: `compile_training_loop`, which updates in each step"),
    PeerEntry("jax", "jax_jit", "jax", "JAX: `jit(value_and_grad(loss))`", ("mlp", "mlp-small", "bert", "gpt2")),
    PeerEntry("onnxruntime", "inference", None, "ONNX Runtime's inference session: forward only", trains=False),
    PeerEntry(
        OVERHEAD,
        "overhead",
        None,
        "onnxgrad's `session.backward`, and a bare `run_with_iobinding` of the same graph",
        ("mlp-small",),
        trains=False,
        ours=True,
    ),
)
PEERS = {entry.name: entry for entry in _ENTRIES}
