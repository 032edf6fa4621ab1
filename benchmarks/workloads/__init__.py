"""The workloads by name, in the order of the tables."""

from .bert import BERT
from .gpt2 import GPT2
from .lstm import LSTM
from .mlp import MLP, MLP_SMALL
from .mobilenet import MOBILENET
from .resnet import RESNET18
from .unet import UNET
from .vit import VIT
from .workload import Batch, Workload

WORKLOADS = {w.name: w for w in (MLP, MLP_SMALL, RESNET18, MOBILENET, UNET, VIT, BERT, GPT2, LSTM)}

__all__ = ["WORKLOADS", "Batch", "Workload"]
