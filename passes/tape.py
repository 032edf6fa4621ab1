"""The emitter of nodes: operators on `Tensor` append ONNX nodes to a graph, with shapes inferred as they go."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from .attributes import make_attributes
from .errors import UnsupportedError
from .fresh_names import FreshNames
from .infer_shapes import NodeInference

CANONICAL_OPSET = 26
"""The opset whose operator forms the rules read and emit."""

CONSTANT = "onnxgrad.constant"
"""How the names of constants begin that a tape makes."""

Dim = int | str | None
"""A known size, the name (or expression) of a symbolic one, or unknown."""

Scalar = bool | int | float


class Tensor:
    """A value of the graph under construction; arithmetic on it emits nodes at its tape.

    Python scalars become constants of the tensor's own dtype.
    """

    __slots__ = ("op", "value")

    def __init__(self, op: Tape, value: ir.Value) -> None:
        self.op = op
        self.value = value

    def __repr__(self) -> str:
        return f"Tensor({self.value.name}: {self.value.dtype}{self.value.shape})"

    @property
    def dtype(self) -> ir.DataType:
        """The element type. Raises UnsupportedError when inference could not tell it."""
        if self.value.dtype is None:
            raise UnsupportedError(f"The element type of {self.value.name!r} is unknown; {_annotate()}")
        return self.value.dtype

    @property
    def shape(self) -> tuple[Dim, ...]:
        """Sizes, static ones as int and symbolic ones by name. Raises UnsupportedError on unknown rank."""
        return tuple(dim if isinstance(dim, int) else dim.value for dim in self._dims)

    @property
    def rank(self) -> int:
        """The number of axes. Raises UnsupportedError where it is unknown."""
        return len(self._dims)

    @property
    def _dims(self) -> ir.Shape:
        if self.value.shape is None:
            raise UnsupportedError(f"The rank of {self.value.name!r} is unknown; {_annotate()}")
        return self.value.shape

    @property
    def static_shape(self) -> tuple[int, ...] | None:
        """The shape if every size is known, else None."""
        shape = self.value.shape
        if shape is None:
            return None
        sizes = tuple([dim for dim in shape if isinstance(dim, int)])
        return sizes if len(sizes) == len(shape) else None

    @property
    def constant(self) -> np.ndarray | None:
        """The value as an array if it is a constant of the graph (not a parameter), else None."""
        if self.value.is_graph_input():
            return None
        tensor = ir.convenience.get_const_tensor(self.value)
        return None if tensor is None else tensor.numpy()

    def __add__(self, other: Tensor | Scalar) -> Tensor:
        return self.op.Add(self, self.op.like(self, other))

    def __radd__(self, other: Scalar) -> Tensor:
        return self.op.Add(self.op.like(self, other), self)

    def __sub__(self, other: Tensor | Scalar) -> Tensor:
        return self.op.Sub(self, self.op.like(self, other))

    def __rsub__(self, other: Scalar) -> Tensor:
        return self.op.Sub(self.op.like(self, other), self)

    def __mul__(self, other: Tensor | Scalar) -> Tensor:
        return self.op.Mul(self, self.op.like(self, other))

    def __rmul__(self, other: Scalar) -> Tensor:
        return self.op.Mul(self.op.like(self, other), self)

    def __truediv__(self, other: Tensor | Scalar) -> Tensor:
        return self.op.Div(self, self.op.like(self, other))

    def __rtruediv__(self, other: Scalar) -> Tensor:
        return self.op.Div(self.op.like(self, other), self)

    def __pow__(self, other: Tensor | Scalar) -> Tensor:
        return self.op.Pow(self, self.op.like(self, other))

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.op.MatMul(self, other)

    def __neg__(self) -> Tensor:
        return self.op.Neg(self)

    def __gt__(self, other: Tensor | Scalar) -> Tensor:
        return self.op.Greater(self, self.op.like(self, other))

    def __ge__(self, other: Tensor | Scalar) -> Tensor:
        return self.op.GreaterOrEqual(self, self.op.like(self, other))

    def __lt__(self, other: Tensor | Scalar) -> Tensor:
        return self.op.Less(self, self.op.like(self, other))

    def __le__(self, other: Tensor | Scalar) -> Tensor:
        return self.op.LessOrEqual(self, self.op.like(self, other))

    def equals(self, other: Tensor | Scalar) -> Tensor:
        """Elementwise equality, a bool tensor."""
        return self.op.Equal(self, self.op.like(self, other))

    def cast(self, dtype: ir.DataType) -> Tensor:
        """This tensor in *dtype*; itself if it has that dtype already."""
        return self if self.dtype == dtype else self.op.Cast(self, to=dtype)

    def sum(self, axes: Sequence[int] | Tensor | None = None, *, keepdims: bool = False) -> Tensor:
        """Sum over *axes* (all of them if None; itself if there are none)."""
        return self._reduce("ReduceSum", axes, keepdims)

    def mean(self, axes: Sequence[int] | Tensor | None = None, *, keepdims: bool = False) -> Tensor:
        """Mean over *axes* (all of them if None; itself if there are none)."""
        return self._reduce("ReduceMean", axes, keepdims)

    def prod(self, axes: Sequence[int] | Tensor | None = None, *, keepdims: bool = False) -> Tensor:
        """Product over *axes* (all of them if None; itself if there are none)."""
        return self._reduce("ReduceProd", axes, keepdims)

    def _reduce(self, op_type: str, axes: Sequence[int] | Tensor | None, keepdims: bool) -> Tensor:
        if axes is None:
            return self.op.emit(op_type, self, keepdims=int(keepdims))
        if not isinstance(axes, Tensor):
            if not axes:
                return self
            axes = self.op.ints(sorted(axis % self.rank for axis in axes))
        return self.op.emit(op_type, self, axes, keepdims=int(keepdims), noop_with_empty_axes=1)

    def transpose(self, perm: Sequence[int]) -> Tensor:
        """Permute the axes; itself for the identity permutation."""
        return self if list(perm) == list(range(len(perm))) else self.op.Transpose(self, perm=list(perm))

    def swap_last_two(self) -> Tensor:
        """The matrix transpose of the last two axes."""
        axes = list(range(self.rank))
        return self.transpose([*axes[:-2], axes[-1], axes[-2]])

    def reshape(self, shape: Sequence[int] | Tensor) -> Tensor:
        """Reshape to a static shape (one -1 allowed) or to an int64 shape tensor (zeros are sizes, not copies)."""
        if not isinstance(shape, Tensor):
            if self.static_shape == tuple(shape):
                return self
            shape = self.op.ints(shape)
        return self.op.Reshape(self, shape, allowzero=1)

    def reshape_like(self, other: Tensor) -> Tensor:
        """Reshape to the shape of *other*, statically where at most one of its sizes is unknown."""
        if same_shape(self, other):
            return self
        unknown = [axis for axis, dim in enumerate(other.shape) if not isinstance(dim, int)]
        if len(unknown) == 1 and 0 not in other.shape:
            return self.reshape([dim if isinstance(dim, int) else -1 for dim in other.shape])
        return self.reshape(other.sizes())

    def flatten(self, axis: int) -> Tensor:
        """The matrix whose rows are made of the axes before *axis*, its columns of the others; itself if it is one."""
        return self if self.rank == 2 and axis == 1 else self.op.Flatten(self, axis=axis)

    def expand_like(self, other: Tensor) -> Tensor:
        """Broadcast to the shape of *other*."""
        return self if same_shape(self, other) else self.op.Expand(self, other.sizes())

    def unsqueeze(self, axes: Sequence[int]) -> Tensor:
        return self if not axes else self.op.Unsqueeze(self, self.op.ints(axes))

    def squeeze(self, axes: Sequence[int]) -> Tensor:
        return self if not axes else self.op.Squeeze(self, self.op.ints(axes))

    def sizes(self, axes: Sequence[int] | None = None) -> Tensor:
        """The shape, or its sizes at *axes*, as a 1-D int64 tensor: a constant where they are known."""
        if axes is None:
            static = self.static_shape
            return self.op.ints(static) if static is not None else self.op.Shape(self)
        shape = self.shape
        wanted = [axis % len(shape) for axis in axes]
        known = [dim for axis in wanted if isinstance(dim := shape[axis], int)]
        if len(known) == len(wanted):
            return self.op.ints(known)
        if wanted == list(range(wanted[0], wanted[0] + len(wanted))):
            return self.op.Shape(self, start=wanted[0], end=wanted[-1] + 1)
        return self.op.Gather(self.op.Shape(self), self.op.ints(wanted), axis=0)

    def count(self, axes: Sequence[int] | None = None, *, dtype: ir.DataType | None = None) -> Tensor:
        """The number of elements along *axes* (all if None), a scalar in *dtype* (this tensor's if None)."""
        dtype = self.dtype if dtype is None else dtype
        axes = list(range(self.rank)) if axes is None else [axis % self.rank for axis in axes]
        known = [dim for axis in axes if isinstance(dim := self.shape[axis], int)]
        if len(known) == len(axes):
            return self.op.constant(math.prod(known), dtype)
        return self.op.ReduceProd(self.sizes(axes), keepdims=0).cast(dtype)


class Tape:
    """Appends nodes to *graph*: `op.Exp(x)`, `op.Transpose(x, perm=[1, 0])`, `op.emit("Split", …, outputs=3)`.

    Arguments are tensors (None for an omitted optional input), keywords are attributes. Every emitted node is
    shape-inferred at once and carries *metadata*; its name starts with *prefix*.
    """

    def __init__(self, graph: ir.Graph, *, opset: int = CANONICAL_OPSET, outer: Tape | None = None) -> None:
        self.graph = graph
        self.opset = opset
        self.metadata: Mapping[str, str] = {} if outer is None else outer.metadata
        self.prefix: str = "onnxgrad" if outer is None else outer.prefix
        self._outer = outer
        self._names: FreshNames = FreshNames(graph) if outer is None else outer._names
        self._constants: dict[tuple[ir.DataType, tuple[int, ...], bytes], Tensor] = {}

    # Looks through the whole graph, which a tape that emits nothing need not.
    @cached_property
    def inference(self) -> NodeInference:
        """What infers the types and shapes of the nodes."""
        return NodeInference(self.graph, self.opset) if self._outer is None else self._outer.inference

    def body(self, graph: ir.Graph | None = None) -> Tape:
        """A tape for a subgraph of a node of this graph: the body of a Scan or Loop, a branch of an If.

        Its names are free in this graph as well, its constants are this graph's. Inside, read a tensor `x` of this
        graph as `inner.tensor(x.value)`: where a node goes is decided by the tape of its first operand.

        Args:
            graph: the subgraph to append to; an empty one if None.
        """
        if graph is None:
            graph = ir.Graph([], [], nodes=[], opset_imports={"": self.opset}, name=self.fresh_name("body"))
        return Tape(graph, opset=self.opset, outer=self)

    @property
    def is_body(self) -> bool:
        """Whether the graph is that of a node of another graph."""
        return self._outer is not None

    def argument(self, stem: str, dtype: ir.DataType, shape: Sequence[Dim] | None) -> Tensor:
        """A new input of the graph."""
        value = ir.Value(
            name=self.fresh_name(stem), type=ir.TensorType(dtype), shape=None if shape is None else ir.Shape(shape)
        )
        self.graph.inputs.append(value)
        return Tensor(self, value)

    def returns(self, *tensors: Tensor) -> None:
        """Append *tensors* to the outputs of the graph, through an Identity where it does not compute them itself."""
        for tensor in tensors:
            node, value = tensor.value.producer(), tensor.value
            if node is None or node.graph is not self.graph or value in self.graph.outputs:
                value = self.Identity(self.tensor(value)).value
            self.graph.outputs.append(value)

    def at(self, prefix: str, metadata: Mapping[str, str]) -> None:
        """Name the nodes that follow after *prefix* and give them *metadata* (their provenance)."""
        self.prefix, self.metadata = prefix, metadata

    def tensor(self, value: ir.Value) -> Tensor:
        """View a value of the graph as a tensor of this tape."""
        return Tensor(self, value)

    def __getattr__(self, op_type: str) -> Callable[..., Tensor]:
        if not op_type[0].isupper():
            raise AttributeError(op_type)

        def emit_one(*inputs: Tensor | None, **attributes: Any) -> Tensor:
            return self.emit(op_type, *inputs, **attributes)

        return emit_one

    def emit(self, op_type: str, *inputs: Tensor | None, domain: str = "", **attributes: Any) -> Tensor:
        """Append a node with one output."""
        return self.emit_many(op_type, *inputs, outputs=1, domain=domain, **attributes)[0]

    def emit_many(
        self, op_type: str, *inputs: Tensor | None, outputs: int, domain: str = "", **attributes: Any
    ) -> tuple[Tensor, ...]:
        """Append a node with *outputs* outputs."""
        name = self.fresh_name(f"{self.prefix}/{op_type}")
        values = [None if tensor is None else tensor.value for tensor in inputs]
        while values and values[-1] is None:  # the runtime stumbles over some that are omitted by an empty name
            values.pop()
        node = ir.Node(
            domain,
            op_type,
            values,
            make_attributes(attributes),
            outputs=[
                ir.Value(name=name if index == 0 else self.fresh_name(f"{name}:{index}")) for index in range(outputs)
            ],
            name=name,
            metadata_props=dict(self.metadata),
        )
        self.graph.append(node)
        self.inference.infer(node)
        return tuple(Tensor(self, value) for value in node.outputs)

    def constant(self, value: Any, dtype: ir.DataType) -> Tensor:
        """A constant of the graph (of the outermost one in a subgraph), made once per dtype, shape and bytes."""
        if self._outer is not None:
            return self.tensor(self._outer.constant(value, dtype).value)
        array = np.asarray(value).astype(dtype.numpy(), order="C")
        key = (dtype, array.shape, array.tobytes())
        if key not in self._constants:
            name = self.fresh_name(CONSTANT)
            tensor = ir.tensor(array, dtype=dtype, name=name)
            initializer = ir.Value(
                name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=tensor
            )
            self.graph.register_initializer(initializer)
            self._constants[key] = Tensor(self, initializer)
        return self._constants[key]

    def ints(self, values: Sequence[int] | np.ndarray) -> Tensor:
        """A 1-D int64 constant, as shapes, axes and indices are given."""
        return self.constant(np.asarray(values, dtype=np.int64).reshape(-1), ir.DataType.INT64)

    def like(self, tensor: Tensor, other: Tensor | Scalar) -> Tensor:
        """*other* itself, or a scalar as a constant of the dtype of *tensor*."""
        return other if isinstance(other, Tensor) else self.constant(other, tensor.dtype)

    def zeros_like(self, tensor: Tensor) -> Tensor:
        """Zeros of the shape and dtype of *tensor*."""
        return self.full_like(tensor, 0)

    def full_like(self, tensor: Tensor, fill: Scalar) -> Tensor:
        """A tensor of the shape and dtype of *tensor* filled with one value."""
        return self.constant(fill, tensor.dtype).expand_like(tensor)

    def fresh_name(self, stem: str) -> str:
        """A name that no value or node of the graph has yet."""
        return self._names.fresh(stem)


def same_shape(a: Tensor, b: Tensor) -> bool:
    """Whether the shapes are known to be equal: static sizes equal, symbolic ones of the same name."""
    if a.value.shape is None or b.value.shape is None:
        return False
    return a.shape == b.shape and None not in a.shape


def _annotate() -> str:
    return "give its shape and type in the model's value_info, or run shape inference on the model first"
