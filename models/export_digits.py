"""Write `digits.onnx`: a small, untrained convolutional classifier of 8x8 digits, as PyTorch exports it."""

from pathlib import Path

import torch
from torch import nn

FILE = Path(__file__).with_name("digits.onnx")
STACK_TRACE = "pkg.torch.onnx.stack_trace"


class DigitsClassifier(nn.Module):
    """Two convolutions and two linear layers: image [batch, 1, 8, 8] to logits [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 24, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(24, 48, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(48 * 4 * 4, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.conv1(image))
        features = self.pool(torch.relu(self.conv2(features)))
        hidden = torch.relu(self.fc1(features.flatten(1)))
        logits: torch.Tensor = self.fc2(hidden)
        return logits


def main() -> None:
    torch.manual_seed(0)
    model = DigitsClassifier().eval()
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, 8, 8),),
        dynamo=True,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None
    # The source lines stay in the file, for error messages; the folders of this machine do not.
    here, site_packages = Path(__file__).resolve().parents[1], Path(torch.__file__).parents[1]
    for node in program.model.graph:
        if STACK_TRACE in node.metadata_props:
            trace = node.metadata_props[STACK_TRACE]
            node.metadata_props[STACK_TRACE] = trace.replace(f"{here}/", "").replace(f"{site_packages}/", "")
    program.save(FILE, external_data=False)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{FILE.name}: {parameters} parameters, {FILE.stat().st_size} B")


if __name__ == "__main__":
    main()
