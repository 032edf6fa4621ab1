"""The files of a training as onnxruntime-training's users know them, for an ordinary ONNX Runtime."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import safetensors
from onnx_ir.passes.common import ShapeInferencePass

from ..passes.errors import InputError, UnsupportedError
from .compile import compile
from .load import ModelLike, load_model
from .losses import L1, MSE, BinaryCrossEntropyWithLogits, CrossEntropy, Loss
from .program import Program
from .save import save_model, save_tensors
from .split import with_outputs
from .update_models import adamw_model, sgd_model

CHECKPOINT_FORMAT = "onnxgrad.artifacts/1"


class LossType(Enum):
    """The losses by the names that onnxruntime-training gives them; each is a mean."""

    MSELoss = 1
    CrossEntropyLoss = 2
    BCEWithLogitsLoss = 3
    L1Loss = 4


class OptimType(Enum):
    """The optimizers by the names that onnxruntime-training gives them."""

    AdamW = 1
    SGD = 2


_LOSSES: dict[LossType, Loss] = {
    LossType.MSELoss: MSE(),
    LossType.CrossEntropyLoss: CrossEntropy(),
    LossType.BCEWithLogitsLoss: BinaryCrossEntropyWithLogits(),
    LossType.L1Loss: L1(),
}
_UPDATES = {OptimType.AdamW: adamw_model, OptimType.SGD: sgd_model}


def generate_artifacts(
    model: ModelLike,
    requires_grad: Sequence[str] | None = None,
    frozen_params: Sequence[str] | None = None,
    loss: LossType | Loss | ModelLike | None = None,
    optimizer: OptimType | None = None,
    artifact_directory: str | os.PathLike[str] | None = None,
    prefix: str = "",
    ort_format: bool = False,
    custom_op_library: str | os.PathLike[str] | None = None,
    additional_output_names: Sequence[str] | None = None,
    nominal_checkpoint: bool = False,
    loss_input_names: Sequence[str] | None = None,
) -> None:
    """Write what a training needs, with the arguments of `onnxruntime.training.artifacts.generate_artifacts`.

    The files are `training_model.onnx`, the joint graph in accumulate mode; `eval_model.onnx`, its forward part with
    the loss; `optimizer_model.onnx`, the step of the optimizer (`update_models`), if one is given; and `checkpoint`,
    the parameters as safetensors. The models are of standard operators.

    Args:
        requires_grad: the parameters to train; all float initializers that act as weights if None.
        frozen_params: parameters not to train.
        loss: a LossType, or whatever `compile` takes: a Loss with options, or a second model. If None, the output has
            one element and is the loss itself.
        artifact_directory: an existing folder; the current one if None.
        prefix: of each file's name.
        additional_output_names: values that the training and the eval model give out behind the loss.
        loss_input_names: the output that the loss takes; the first one if None. A loss that is a second model finds
            what it takes by name.

    Raises InputError for what is only of the training build (ort_format, custom_op_library, nominal_checkpoint) and for
    arguments that do not fit; and what `compile` raises. No file is written then.
    """
    for name, given, instead in (
        ("ort_format", ort_format, "convert the files with onnxruntime.tools.convert_onnx_models_to_ort"),
        (
            "custom_op_library",
            custom_op_library,
            "register it in the session options; its rules go to compile",
        ),
        ("nominal_checkpoint", nominal_checkpoint, "the training model has the parameters' first values itself"),
    ):
        if given:
            raise InputError(f"generate_artifacts: {name} is of onnxruntime-training's own formats; {instead}")
    both = sorted(set(requires_grad or ()) & set(frozen_params or ()))
    if both:
        raise InputError(f"generate_artifacts: {both[0]!r} is in requires_grad and in frozen_params; it is one of them")
    if optimizer is not None and optimizer not in _UPDATES:
        raise InputError(f"generate_artifacts: the optimizer is an OptimType or None, not {optimizer!r}")
    if len(loss_input_names or ()) > 1:
        raise InputError("generate_artifacts: a loss takes one output; a loss that is a model may take several")
    folder = Path.cwd() if artifact_directory is None else Path(artifact_directory)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}")

    program = _compiled(model, requires_grad, frozen_params, loss, additional_output_names, loss_input_names)
    written = {"training_model": program.with_mode("accumulate").model, "eval_model": _evaluation(program).model}
    if optimizer is not None:
        types = {name: (ir.DataType.from_numpy(a.dtype), a.shape) for name, a in program.parameters.items()}
        unfit = [name for name, (dtype, _) in types.items() if dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE)]
        if unfit:
            raise UnsupportedError(f"The optimizer steps float32 and float64; {unfit[0]!r} is {types[unfit[0]][0]}")
        written["optimizer_model"] = _UPDATES[optimizer](types)
    for name, artifact in written.items():
        save_model(artifact, folder / f"{prefix}{name}.onnx")
    write_checkpoint(folder / f"{prefix}checkpoint", program.parameters, {}, {})


def _compiled(
    model: ModelLike,
    requires_grad: Sequence[str] | None,
    frozen: Sequence[str] | None,
    loss: LossType | Loss | ModelLike | None,
    additional: Sequence[str] | None,
    loss_input_names: Sequence[str] | None,
) -> Program:
    """The program whose outputs are the loss, and the *additional* ones in their order."""
    extra = list(additional or ())
    outputs = [value.name for value in load_model(model).proto.graph.output]
    source = _with_outputs(model, [name for name in extra if name not in outputs])
    differentiated = list(loss_input_names or outputs[:1])
    program = compile(
        source,
        wrt="parameters" if requires_grad is None else list(requires_grad),
        frozen=[] if requires_grad is not None else list(frozen or ()),
        outputs=None if loss is not None and not isinstance(loss, LossType | Loss) else differentiated,
        loss=_LOSSES[loss] if isinstance(loss, LossType) else loss,
    )
    ports = {port.name: port for port in program.signature.outputs}
    first = program.signature.loss or differentiated[0]
    if ports[first].static_shape is None or np.prod(ports[first].static_shape or ()) != 1:
        raise InputError(f"generate_artifacts: {first!r} has more than one element; give a `loss`")
    gradients = list(program.signature.outputs_of("gradient"))
    return with_outputs(program, [ports[name] for name in dict.fromkeys([first, *extra])] + gradients)


def _with_outputs(model: ModelLike, names: Sequence[str]) -> ModelLike:
    """*model* with the values *names* as further outputs."""
    if not names:
        return model
    loaded = load_model(model).model
    ShapeInferencePass()(loaded)  # an output has a type
    values = {str(value.name): value for node in loaded.graph for value in node.outputs}
    for name in names:
        if name not in values:
            raise InputError(f"generate_artifacts: additional_output_names: the model has no value {name!r}")
        loaded.graph.outputs.append(values[name])
    return loaded


def _evaluation(program: Program) -> Program:
    return with_outputs(program, list(program.signature.outputs_of("loss", "output")))


def write_checkpoint(
    path: Path, parameters: Mapping[str, np.ndarray], states: Mapping[str, np.ndarray], properties: Mapping[str, object]
) -> None:
    """Write a checkpoint, whole or not at all. Raises Error when it cannot, InputError for other properties."""
    if not all(isinstance(value, int | float | str) for value in properties.values()):
        raise InputError("A checkpoint's properties are int, float and str")
    tensors = {f"parameters/{name}": np.asarray(array, order="C") for name, array in parameters.items()}
    tensors |= {f"optimizer/{name}": np.asarray(array, order="C") for name, array in states.items()}
    metadata = {"format": CHECKPOINT_FORMAT, "properties": json.dumps(dict(properties))}
    save_tensors(path, tensors, metadata)


def read_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, int | float | str]]:
    """The parameters, the optimizer's states and the properties. Raises InputError if *path* is no such checkpoint."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        properties = json.loads(metadata.get("properties", "{}"))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} is no readable checkpoint: {error}") from None
    if metadata.get("format") != CHECKPOINT_FORMAT:
        raise InputError(f"{path} is a safetensors file, but no checkpoint of generate_artifacts")
    parts = [
        {name.removeprefix(kind): array for name, array in tensors.items() if name.startswith(kind)}
        for kind in ("parameters/", "optimizer/")
    ]
    return parts[0], parts[1], properties


def forward_only(proto: onnx.ModelProto, outputs: Sequence[str]) -> ir.Model:
    """*proto* with the values *outputs* as its outputs, and without what they do not need.

    Raises InputError for a name that it does not have.
    """
    model = ir.from_proto(proto)
    graph = model.graph
    values = {str(value.name): value for node in graph for value in node.outputs}
    for name in outputs:
        if name not in values:
            raise InputError(
                f"The forward model computes no {name!r}; it has {', '.join(str(v.name) for v in graph.outputs)}"
            )
    graph.outputs[:] = [values[name] for name in outputs]
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    return model
