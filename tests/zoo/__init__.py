"""Models that people really export: PyTorch modules, their ONNX exports, and the oracles for their gradients."""
