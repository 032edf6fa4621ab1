"""Graph-to-graph transformations of a forward model, all made of the one table of VJP rules.

Each takes a model (a path, a ModelProto or an onnx_ir.Model) and gives a plain model of the same kind, which any
runtime runs and any of them transforms again.
"""

from .gauss_newton import ggnvp
from .hessian import hessian, hvp
from .jacobian import jacobian
from .jvp import jvp
from .mark import mark
from .vjp import value_and_grad, vjp

__all__ = ["ggnvp", "hessian", "hvp", "jacobian", "jvp", "mark", "value_and_grad", "vjp"]
