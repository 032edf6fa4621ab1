"""The compiler: a forward model in, a Program out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ..passes.block_attention import BlockAttention
from ..passes.checkpoint import Checkpoint
from ..passes.choose_residuals import ChooseResiduals
from ..passes.custom_functions import CustomFunctions
from ..passes.errors import InputError
from ..passes.fake_quantize import LowerFakeQuantize
from ..passes.forms import ChooseForm
from ..passes.gradient_marks import MarkGradients
from ..passes.lower_convolutions import LowerConvolutions
from ..passes.lower_correlations import LowerCorrelations
from ..passes.lower_opset import LowerOpset
from ..passes.lower_scatter import LowerScatter
from ..passes.pool_before_relu import PoolBeforeRelu
from ..passes.registry import Registry
from ..passes.rules import BUILTIN_RULES
from ..passes.rules.straight_through import STRAIGHT_THROUGH_RULES
from ..passes.schedule import Schedule
from .collection import without_garbage_collection
from .dims import check_sizes, dims_of_inputs
from .joint import JointBuilder
from .load import ModelLike, load_model
from .losses import Loss
from .normalize import normalize
from .optimize import optimize
from .original import keep_original
from .parameters import as_names, select_outputs, select_prediction, select_retained, select_wrt, without_frozen
from .pipeline import OnPass, Pipeline
from .program import Program
from .signature import Mode


@without_garbage_collection()
def compile(
    model: ModelLike,
    *,
    wrt: str | Sequence[str] = "parameters",
    outputs: str | Sequence[str] | None = None,
    loss: str | Loss | ModelLike | None = None,
    mode: Mode = "grad",
    free_dims: Mapping[str, int] | None = None,
    opset: int | None = None,
    rules: Registry = BUILTIN_RULES,
    allow_unused: bool = False,
    materialize_grads: bool = False,
    straight_through: bool | str | Sequence[str] = False,
    stop_gradient: str | Sequence[str] = (),
    scale_gradient: Mapping[str, float] | None = None,
    frozen: str | Sequence[str] = (),
    retain_grad: str | Sequence[str] = (),
    checkpoint: str | int | Sequence[str] | None = None,
    memory_budget: int | None = None,
    assume_dims: Mapping[str, int] | None = None,
    tune: bool | ChooseForm = False,
    on_pass: OnPass | None = None,
) -> Program:
    """Compile a forward model into a joint graph that computes its outputs and their gradients.

    Args:
        model: a path, a ModelProto or an onnx_ir.Model, of opset 7 to the newest that the installed onnx knows (28).
        wrt: what to differentiate with respect to: "parameters" (the float initializers that act as weights),
            "inputs" (the float graph inputs), or names and glob patterns; a name may be that of an
            intermediate value.
        outputs: the outputs to differentiate, or the one that the loss takes; names of graph outputs or of
            intermediate values. All float outputs if None (the first of them for a loss).
        loss: a name (`onnxgrad.losses`), a Loss with its options, a second ONNX model whose inputs are
            connected to the outputs by name, or None: then the cotangents of the outputs are fed.
        mode: "grad" for fresh gradients, "accumulate" to add to gradient buffers that are fed.
        free_dims: sizes for symbolic dims, which fixes them.
        opset: the opset of the joint graph, 18 to 26; the lowest that can express it if None.
        rules: the VJP rules, with your own added (`onnxgrad.Registry`).
        allow_unused: leave out a named member of `wrt` that no output depends on, instead of raising, as in
            `torch.autograd.grad`. Members of "parameters", "inputs" or a pattern are left out in any case,
            and listed in `Program.unused`, as long as one of them is used.
        materialize_grads: give zeros for what is left out (implies allow_unused).
        straight_through: True to differentiate pairs of QuantizeLinear and DequantizeLinear as if they did not round
            (quantization-aware training), within the range that can be represented; see `fake_quantize`. Names and
            glob patterns of nodes, or of what they compute, to let cotangents pass those nodes unchanged.
        stop_gradient: names and glob patterns of values behind which no gradient flows back (`Tensor.detach`).
        scale_gradient: factors by names and glob patterns of values, at which the gradient is multiplied by them; -1
            reverses it.
        frozen: names and glob patterns of members of `wrt` that get no gradient (`requires_grad_(False)`).
        retain_grad: names of intermediate values whose gradients are outputs as well (`Tensor.retain_grad`).
        checkpoint: less memory for one more forward pass at most (Chen et al. 2016): "auto" for the least estimated
            peak, or nearly that for less arithmetic, how many times to cut the forward part, or names and glob patterns
            of the values behind which it is cut. The gradients stay the same to the last bit.
        memory_budget: in bytes: as many checkpoints as the estimated peak of the activations needs to fit.
        assume_dims: sizes for symbolic dims with which memory is estimated and forms are measured, and by which a
            sequence is long (`BlockAttention`); they stay symbolic.
        tune: where a gradient has several exact forms, measure them on this machine instead of expecting by their
            sizes which is the fastest; True for an `onnxgrad.Tuner` with its defaults. Needs ONNX Runtime.
        on_pass: called after each pass with its record and the model as it is then.

    Raises:
        InputError: an argument names something that does not exist or does not fit.
        InvalidModelError: the model cannot be read or is not valid.
        UnsupportedError: something on the differentiated path has no rule; all such nodes are listed.
    """
    if mode not in ("grad", "accumulate"):
        raise InputError(f'mode is "grad" or "accumulate", not {mode!r}')
    if checkpoint is not None and memory_budget is not None:
        raise InputError("Give `checkpoint` or `memory_budget`, not both; a budget chooses the checkpoints")
    if isinstance(checkpoint, int) and checkpoint < 1:
        raise InputError(f"`checkpoint` is how many times the forward part is cut, at least 1, not {checkpoint}")
    if memory_budget is not None and not (isinstance(memory_budget, int) and memory_budget > 0):
        raise InputError(f"`memory_budget` is a number of bytes, not {memory_budget!r}")
    loaded = load_model(model)
    pipeline = Pipeline(loaded.model, on_pass)
    graph = loaded.model.graph
    check_sizes("assume_dims", assume_dims or {}, dims_of_inputs(graph))

    functions = CustomFunctions(loaded.model)
    rules = functions.rules(rules)
    checkpoints = () if checkpoint == "auto" or isinstance(checkpoint, int) else as_names(checkpoint)
    marks = MarkGradients(as_names(stop_gradient), scale_gradient, as_names(straight_through))
    retained = as_names(retain_grad)
    names = [*as_names(wrt), *as_names(outputs), *checkpoints, *retained, *marks.names(graph)]
    fake_quantize = straight_through is True
    if fake_quantize:
        rules = Registry(STRAIGHT_THROUGH_RULES, rules)
    if callable(tune):
        rules = Registry(rules, choose=tune)
    elif tune:
        raise InputError("To measure forms takes a runtime; `onnxgrad.compile` and `onnxgrad.Tuner` have one")
    parameters = normalize(pipeline, rules, free_dims or {}, keep=names, straight_through=fake_quantize)
    pipeline.run(
        [
            *([marks] if marks.any else []),
            BlockAttention(assume_dims, names),
            PoolBeforeRelu(rules, names),
            LowerConvolutions(rules, names),
        ]
    )
    if memory_budget is not None:
        _check_sizes_known(graph, assume_dims or {})
    selected, named = select_wrt(graph, wrt, parameters)
    selected = without_frozen(selected, as_names(frozen)) + select_retained(graph, retained, selected)
    differentiated = select_outputs(graph, outputs)
    if loss is not None:
        differentiated = [select_prediction(differentiated, outputs)]

    joint = JointBuilder(loaded.model, differentiated)
    if loss is not None:
        pipeline.step("AttachLoss", lambda: joint.attach_loss(loss))
    optional = set(selected) if allow_unused or materialize_grads else set(selected) - named
    pipeline.step("Differentiate", lambda: joint.differentiate(selected, optional, rules, materialize_grads))

    if functions:
        pipeline.step("InlineCustomFunctions", lambda: joint.inline(functions))

    protected = [*(str(value.name) for value in selected), *checkpoints]
    cuts = "auto" if checkpoint is None else checkpoint
    optimize(pipeline, protected)
    pipeline.run(
        [
            *([LowerFakeQuantize()] if fake_quantize else []),
            ChooseResiduals(joint.forward),
            *(
                [Checkpoint(joint.forward, cuts, budget=memory_budget, sizes=assume_dims)]
                if checkpoint is not None or memory_budget is not None
                else []
            ),
            LowerScatter(),
            LowerOpset(opset),
            LowerCorrelations(rules, protected),
            Schedule(assume_dims, joint.forward),
        ]
    )

    keep_original(loaded.proto, loaded.folder, loaded.model)
    program = Program(loaded.model, joint.signature(), tuple(pipeline.records), joint.unused)
    return program.with_mode(mode)


def _check_sizes_known(graph: ir.Graph, sizes: Mapping[str, int]) -> None:
    """Raise InputError when the memory of *graph* depends on sizes that nobody has named."""
    dims = [dim for value in graph.inputs for dim in value.shape or () if not isinstance(dim, int)]
    unknown = dict.fromkeys(str(dim.value) for dim in dims if dim.value is None or dim.value not in sizes)
    if unknown:
        raise InputError(
            f"How much memory is needed depends on {', '.join(unknown)}; name sizes to reckon with: "
            f"assume_dims={{{next(iter(unknown))!r}: 32}} (--assume-dim {next(iter(unknown))}=32)"
        )
