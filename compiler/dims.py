"""Symbolic dims, and the sizes that a user gives them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from numbers import Integral

import onnx_ir as ir

from ..passes.errors import InputError
from .parameters import nearest

LARGEST = 2**31 - 1


def fix_dims(graph: ir.Graph, sizes: Mapping[str, int]) -> None:
    """Give the symbolic dims named in *sizes* their sizes, everywhere in the graph. Raises as `check_sizes` does."""
    check_sizes("free_dims", sizes, dims_of_inputs(graph))
    bindings = {name: int(size) for name, size in sizes.items()}
    inner = [value for node in graph.all_nodes() for value in node.outputs]
    for value in (*graph.inputs, *inner):
        if value.shape is not None:
            value.shape = ir.Shape(
                dim if isinstance(dim, int) or dim.value is None else dim.evaluate(bindings) for dim in value.shape
            )


def dims_of_inputs(graph: ir.Graph) -> list[str]:
    """The names of the symbolic dims of the inputs of *graph*, each once, those in expressions (`2*batch`) too."""
    shapes = [value.shape for value in graph.inputs if value.shape is not None]
    dims = [dim for shape in shapes for dim in shape if isinstance(dim, ir.SymbolicDim) and dim.value is not None]
    names = [[str(dim.value), *sorted(dim.free_symbols())] for dim in dims]
    return list(dict.fromkeys(name for each in names for name in each))


def check_sizes(argument: str, sizes: Mapping[str, int], dims: Collection[str]) -> None:
    """Raise InputError where *argument* gives a size to what is none of *dims*, or gives one that is no size."""
    if not isinstance(sizes, Mapping):
        raise InputError(f"{argument} maps names of dims to sizes, {{'batch': 32}}; it is {sizes!r}")
    for name, size in sizes.items():
        if name not in dims:
            known = f"; the model has {', '.join(sorted(dims)) or 'none'}"
            raise InputError(f"{argument}: no input has a symbolic dim {name!r}{nearest(name, dims) or known}")
        if not isinstance(size, Integral) or not 1 <= size <= LARGEST:
            raise InputError(f"{argument}: {name}={size} is no size; sizes are whole numbers from 1 to {LARGEST}")
