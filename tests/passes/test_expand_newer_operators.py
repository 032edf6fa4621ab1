"""Operators of opsets that the runtime does not know yet, by the functions that define them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

import onnxgrad

pytestmark = pytest.mark.skipif(onnx.defs.onnx_opset_version() < 28, reason="this onnx knows no newer opset")


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


Arrays = dict[str, np.ndarray]


def gradients(graph: str, opset: int, feeds: Arrays, seeds: Arrays) -> Arrays:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> {graph}')
    program = onnxgrad.compile(model, wrt=list(feeds), outputs=list(seeds))
    return program.session().grad(feeds, seeds)


def check(found: Arrays, leaves: dict[str, torch.Tensor], y: torch.Tensor, seed: np.ndarray) -> None:
    expected = torch.autograd.grad(y, list(leaves.values()), torch.tensor(seed))
    for name, gradient in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(found[name], gradient.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_swiglu() -> None:
    feeds = {"a": random(2, 4), "b": random(2, 4, seed=1)}
    seed = random(2, 4, seed=2)
    graph = "g (float[N,4] a, float[N,4] b) => (float[N,4] y) { y = SwiGLU <alpha = 1.5> (a, b) }"
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in feeds.items()}
    a, b = leaves.values()
    check(gradients(graph, 28, feeds, {"y": seed}), leaves, a * torch.sigmoid(1.5 * a) * b, seed)


def test_causal_convolution_with_a_state() -> None:
    feeds = {"x": random(2, 3, 9), "w": random(3, 1, 3), "p": random(2, 3, 2)}
    seed = random(2, 3, 9, seed=2)
    graph = """g (float[2,3,9] x, float[3,1,3] w, float[2,3,2] p) => (float[2,3,9] y, float[2,3,2] s) {
        y, s = CausalConvWithState (x, w, , p)
    }"""
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in feeds.items()}
    x, w, p = leaves.values()
    y = torch.nn.functional.conv1d(torch.cat([p, x], 2), w, groups=3)
    check(gradients(graph, 27, feeds, {"y": seed}), leaves, y, seed)


def test_linear_attention() -> None:
    """output_t = q_t S_t / sqrt(d), S_t = S_{t-1} + k_tᵀ v_t, for each head."""
    feeds = {name: random(2, 5, 6, seed=seed) for seed, name in enumerate("qkv")}
    seed = random(2, 5, 6, seed=9)
    graph = """g (float[2,5,6] q, float[2,5,6] k, float[2,5,6] v) => (float[2,5,6] y, float[2,2,3,3] s) {
        y, s = LinearAttention <q_num_heads = 2, kv_num_heads = 2, update_rule = "linear"> (q, k, v)
    }"""
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in feeds.items()}
    q, k, v = (t.reshape(2, 5, 2, 3).transpose(1, 2) for t in leaves.values())
    scores = torch.tril(q @ k.transpose(2, 3)) / 3**0.5
    y = (scores @ v).transpose(1, 2).reshape(2, 5, 6)
    check(gradients(graph, 27, feeds, {"y": seed}), leaves, y, seed)


def test_operators_that_only_got_more_types_are_read() -> None:
    feeds = {"x": random(2, 4, 2, 2)}
    seed = random(2, 1, 4, 4, seed=1)
    graph = """g (float[2,4,2,2] x) => (float[2,1,4,4] y) {
        c = Celu (x)
        y = DepthToSpace <blocksize = 2> (c)
    }"""
    leaves = {"x": torch.tensor(feeds["x"], requires_grad=True)}
    y = torch.nn.functional.celu(leaves["x"]).reshape(2, 2, 2, 1, 2, 2).permute(0, 3, 4, 1, 5, 2).reshape(2, 1, 4, 4)
    check(gradients(graph, 28, feeds, {"y": seed}), leaves, y, seed)


def test_a_mode_that_came_later() -> None:
    feeds, seed = {"x": random(2, 1, 4, 4)}, random(2, 4, 2, 2, seed=1)
    graph = 'g (float[2,1,4,4] x) => (float[2,4,2,2] y) { y = SpaceToDepth <blocksize = 2, mode = "CRD"> (x) }'
    leaves = {"x": torch.tensor(feeds["x"], requires_grad=True)}
    check(gradients(graph, 28, feeds, {"y": seed}), leaves, torch.pixel_unshuffle(leaves["x"], 2), seed)


def test_types_that_came_later() -> None:
    feeds, seed = {"x": random(2, 3).astype(np.float16)}, random(2, 3, seed=1).astype(np.float16)
    graph = "g (float16[2,3] x) => (float16[2,3] y) { y = Celu (x) }"
    leaf = torch.tensor(feeds["x"].astype(np.float32), requires_grad=True)
    (expected,) = torch.autograd.grad(torch.nn.functional.celu(leaf), leaf, torch.tensor(seed.astype(np.float32)))
    np.testing.assert_allclose(gradients(graph, 28, feeds, {"y": seed})["x"], expected, 1e-2, 1e-3)


def test_modulo_with_the_sign_of_the_divisor() -> None:
    feeds = {"a": np.array([5.5, -5.5, 5.5, -5.5], np.float32), "b": np.array([2.0, 2.0, -2.0, -2.0], np.float32)}
    seed = random(4)
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in feeds.items()}
    graph = "g (float[4] a, float[4] b) => (float[4] y) { y = Mod (a, b) }"
    check(gradients(graph, 28, feeds, {"y": seed}), leaves, torch.remainder(*leaves.values()), seed)


def test_attention_within_a_window() -> None:
    feeds = {name: random(1, 2, 5, 3, seed=seed) for seed, name in enumerate("qkv")}
    seed = random(1, 2, 5, 3, seed=9)
    graph = """g (float[1,2,5,3] q, float[1,2,5,3] k, float[1,2,5,3] v) => (float[1,2,5,3] y) {
        y = Attention <left_window_size = 1, right_window_size = 1> (q, k, v)
    }"""
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in feeds.items()}
    distance = torch.arange(5)[:, None] - torch.arange(5)
    y = torch.nn.functional.scaled_dot_product_attention(*leaves.values(), attn_mask=distance.abs() <= 1)
    check(gradients(graph, 25, feeds, {"y": seed}), leaves, y, seed)


def test_what_the_canonical_opset_cannot_say_is_refused_by_name() -> None:
    graph = "g (bfloat16[4] x, bool[4] c) => (bfloat16[k] y) { y = Compress (x, c) }"
    with pytest.raises(onnxgrad.Error, match="Compress"):
        gradients(graph, 28, {"x": random(4)}, {"y": random(4)})
