"""Exports with LSTM and GRU layers: the loss and its gradients agree with PyTorch's.

Exporters permute and stack the weights of these layers, and split and add their biases. What that leaves as it is: the
norm over all weight gradients, and those of the layers around.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import onnxgrad


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, 24, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(48, 12, batch_first=True)
        self.out = nn.Linear(12, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x, _ = self.lstm(self.embed(ids))
        x, _ = self.gru(x)
        return self.out(x[:, -1])


def exported(module: nn.Module, ids: Tensor, folder: Path, *, dynamo: bool, dynamic: bool) -> onnx.ModelProto:
    if dynamo:
        shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
        program = torch.onnx.export(
            module, (ids,), dynamo=True, input_names=["ids"], output_names=["y"], dynamic_shapes=shapes, verbose=False
        )
        assert program is not None
        return program.model_proto
    file = folder / "tagger.onnx"
    axes = {"ids": {0: "batch", 1: "time"}} if dynamic else None
    torch.onnx.export(module, (ids,), file, dynamo=False, input_names=["ids"], output_names=["y"], dynamic_axes=axes)
    return onnx.load(file)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_gradients_through_recurrent_layers(dynamo: bool, dynamic: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Tagger().eval()
    ids = torch.randint(0, 50, (3, 7))
    program = onnxgrad.compile(exported(module, ids, tmp_path, dynamo=dynamo, dynamic=dynamic), loss="cross_entropy")
    labels = np.array([1, 4, 0])
    values, gradients = program.session().value_and_grad({"ids": ids.numpy(), "labels": labels})

    loss = nn.functional.cross_entropy(module(ids), torch.tensor(labels))
    loss.backward()
    assert values["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name in ("embed.weight", "out.weight", "out.bias"):
        gradient = module.get_parameter(name).grad
        assert gradient is not None
        np.testing.assert_allclose(gradients[name], gradient.numpy(), rtol=1e-4, atol=1e-6, err_msg=name)
    expected = sum(float(p.grad.square().sum()) for p in module.parameters() if p.grad is not None)
    assert sum(float(np.square(g).sum()) for g in gradients.values()) == pytest.approx(expected, rel=1e-4)
