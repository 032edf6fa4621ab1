"""Normalization: the forward graph in the one form that the rules know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ..passes.check_attributes import CheckAttributes
from ..passes.contract_in_pairs import ContractInPairs
from ..passes.eliminate_common_subexpressions import EliminateCommonSubexpressions
from ..passes.eliminate_dead_code import EliminateDeadCode
from ..passes.expand_contrib import ExpandContrib
from ..passes.expand_newer_operators import ExpandNewerOperators
from ..passes.explicit_pads import ExplicitPads
from ..passes.fake_quantize import RaiseFakeQuantize
from ..passes.fold_constants import FoldConstants
from ..passes.infer_shapes import InferShapes
from ..passes.inline_constant_branches import InlineConstantBranches
from ..passes.inline_functions import InlineFunctions
from ..passes.lift_constants import LiftConstants
from ..passes.raise_gelu import RaiseGelu
from ..passes.raise_group_normalization import RaiseGroupNormalization
from ..passes.raise_layer_normalization import RaiseLayerNormalization
from ..passes.raise_softmax import RaiseSoftmax
from ..passes.raise_swish import RaiseSwish
from ..passes.registry import Registry
from ..passes.resolve_gradients import ResolveGradients, gradient_nodes, named_values
from ..passes.unroll_sequences import UnrollSequences
from ..passes.upgrade_opset import UpgradeOpset
from .dims import fix_dims
from .parameters import find_parameters
from .pipeline import Pipeline, count_nodes


def normalize(
    pipeline: Pipeline,
    rules: Registry,
    free_dims: Mapping[str, int],
    *,
    keep: Sequence[str] = (),
    straight_through: bool = False,
) -> list[ir.Value]:
    """Bring the model to canonical form: no functions, no Constant nodes, one opset, shapes known, Gradients resolved.

    Args:
        free_dims: sizes for symbolic dims of the inputs.
        keep: names of values that must survive because the user refers to them.
        straight_through: raise pairs of QuantizeLinear and DequantizeLinear to FakeQuantize.

    Returns:
        the parameters (`find_parameters`).

    Raises InputError when *free_dims* names a dim that no input has, and what `ResolveGradients` raises.
    """
    graph = pipeline.model.graph
    gradients = gradient_nodes(pipeline.model)
    keep = [*keep, *named_values(gradients)]
    # Up to IR version 3 every initializer was listed as an input as well; a weight is no input.
    graph.inputs[:] = [value for value in graph.inputs if value.name not in graph.initializers]
    if free_dims:
        pipeline.step("FixDims", lambda: fix_dims(graph, free_dims))
    pipeline.run(
        [
            InlineFunctions(),
            ExpandNewerOperators(),
            LiftConstants(),
            UpgradeOpset(),
            CheckAttributes(),
            InferShapes(),
            ExpandContrib(),
        ]
    )
    if straight_through:
        pipeline.run([RaiseFakeQuantize(keep)])
    own_outputs = [value.name for value in graph.outputs]
    # What the user refers to is an output for the time being, which no pass removes.
    graph.outputs.extend(
        value for node in graph for value in node.outputs if value.name in keep and value.name not in own_outputs
    )
    _fold(pipeline, rules, keep)
    parameters = find_parameters(graph, rules)
    protected = [str(value.name) for value in parameters] + list(keep)
    changed = pipeline.run(
        [
            EliminateDeadCode(keep),
            EliminateCommonSubexpressions(protected),
            RaiseGroupNormalization(keep),
            RaiseLayerNormalization(protected),
            RaiseGelu(protected),
            RaiseSoftmax(protected),
            RaiseSwish(protected),
            ContractInPairs(protected),
            ExplicitPads(),
        ]
    )
    graph.outputs[:] = [value for value in graph.outputs if value.name in own_outputs]
    if gradients:
        # An optimizer that reads the gradients could not be expanded before their shapes were known.
        changed |= pipeline.run([ResolveGradients(rules), InferShapes(), ExpandContrib()])
    return find_parameters(graph, rules) if changed else parameters


def _fold(pipeline: Pipeline, rules: Registry, keep: Sequence[str]) -> None:
    """Fold constants, and with them the branches that are always taken, until no more is known."""
    graph, settled = pipeline.model.graph, False
    while not settled:
        branching = any(node.op_type == "If" for node in graph.all_nodes())
        nodes = count_nodes(pipeline.model)
        protected = [str(value.name) for value in find_parameters(graph, rules)] + list(keep)
        # Also where nothing was folded: a second inference knows more than the first, through loops for one.
        pipeline.run(
            [FoldConstants(protected), InlineConstantBranches(protected), UnrollSequences(protected), InferShapes()]
        )
        # Shapes are known as branches are chosen, and conditions as shapes are known.
        settled = not branching or count_nodes(pipeline.model) == nodes
