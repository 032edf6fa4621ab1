"""A two-layer network as an ONNX model and as a PyTorch module with the same weights, for the tests of training."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import torch

import onnxgrad
from onnxgrad.runtime.session import Session

FEATURES, HIDDEN, CLASSES = 5, 7, 3
NAMES = ("body.weight", "body.bias", "head.weight", "head.bias")


def module(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The network in PyTorch; its parameters are called as those of the ONNX model."""
    torch.manual_seed(0)
    network = torch.nn.Sequential()
    network.add_module("body", torch.nn.Linear(FEATURES, HIDDEN))
    network.add_module("tanh", torch.nn.Tanh())
    network.add_module("head", torch.nn.Linear(HIDDEN, CLASSES))
    return network.to(dtype)


def model(dtype: torch.dtype = torch.float32) -> onnx.ModelProto:
    """The network in ONNX: x [N, FEATURES] to logits [N, CLASSES]."""
    kind = {torch.float32: "float", torch.float64: "double", torch.float16: "float16"}[dtype]
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 18]> mlp ({kind}[N,{FEATURES}] x) => ({kind}[N,{CLASSES}] logits) {{'
        'h = Gemm <transB = 1> (x, "body.weight", "body.bias")  a = Tanh (h)'
        'logits = Gemm <transB = 1> (a, "head.weight", "head.bias") }'
    )
    for name, parameter in module(dtype).named_parameters():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(parameter.detach().numpy(), name))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def session(dtype: torch.dtype = torch.float32, **options: object) -> Session:
    """The network with a cross-entropy loss, on one thread of the CPU."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    program = onnxgrad.compile(model(dtype), **{"loss": "cross_entropy", "mode": "accumulate", **options})
    return program.session(providers=["CPUExecutionProvider"], options=settings)


def data(samples: int, *, seed: int = 0, dtype: type[np.floating] = np.float32) -> dict[str, np.ndarray]:
    """Random features, and labels that depend on them."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((samples, FEATURES))
    return {"x": x.astype(dtype), "labels": x[:, :CLASSES].argmax(axis=1)}
