"""Attention over long sequences, one block of queries after the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from .attention_operator import attend_in_blocks, can_be_parted
from .attention_products import find_attention_products
from .blocks import in_blocks, rows_of_a_block
from .memory_of_values import size_in_bytes, size_of_dim
from .substitution import remove_if_unused, substitute
from .tape import Tape

SHORTEST = 2048
"""From here on the backward part's memory is a fraction, for about a quarter more time (CPU, 8 heads of 64)."""
BYTES_OF_A_BLOCK = 1 << 23
"""Small for the caches, large for the products."""
FEWEST_QUERIES, MOST_QUERIES = 16, 256
"""In a block."""


class BlockAttention(ir.passes.InPlacePass):
    """Let attention over long sequences go through its queries in blocks, so that no matrix of queries × keys exists.

    Each block of queries attends to all keys apart from the others, in a Scan; its backward part computes the
    probabilities of a block again, from the queries, keys and values, which are all that is kept (Rabe and Staats,
    "Self-attention Does Not Need O(n²) Memory", arXiv:2112.05682). Both the operator Attention and
    `AttentionProducts` are gone through so.

    Args:
        sizes: of symbolic dims by name; a sequence whose length is not known is not long.
        protected: names of values that must stay.
        shortest: the least number of queries, and of keys, that are gone through in blocks.
        block_bytes: how large the probabilities of a block are to be.

    Requires: the canonical form, shapes inferred. Guarantees: values change by rounding only.
    """

    def __init__(
        self,
        sizes: Mapping[str, int] | None = None,
        protected: Collection[str] = (),
        *,
        shortest: int = SHORTEST,
        block_bytes: int = BYTES_OF_A_BLOCK,
    ) -> None:
        self._shortest = shortest
        self._block_bytes = block_bytes
        self._sizes = sizes or {}
        self._protected = frozenset(protected)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        products = list(find_attention_products(graph, self._are_long, self._protected))
        operators = [node for node in graph if node.op_type == "Attention" and self._is_long_attention(node)]
        if not products and not operators:
            return ir.passes.PassResult(model, modified=False)
        tape = Tape(graph, opset=model.opset_imports[""])
        for found in products:
            *inner, last = found.nodes
            _name_after(tape, last)
            block = self._queries_of_a_block(found.probabilities)
            rows = [(tape.tensor(value), -2) for value in found.rows]
            substitute(last.outputs[0], in_blocks(tape, block, rows, found.emit, -2).value, self._protected)
            for node in reversed(inner):
                remove_if_unused(node)
        for node in operators:
            _name_after(tape, node)
            block = self._queries_of_a_block(_probabilities_of(node))
            substitute(node.outputs[0], attend_in_blocks(tape, node, block).value, self._protected)
        graph.sort()
        return ir.passes.PassResult(model, modified=True)

    def _is_long_attention(self, node: ir.Node) -> bool:
        if node.domain != "" or not can_be_parted(node):
            return False
        shape = _probabilities_of(node).shape
        return shape is not None and self._are_long(shape[-2], shape[-1])

    def _are_long(self, *sequences: int | ir.SymbolicDim) -> bool:
        known = (isinstance(dim, int) or (dim.value and dim.free_symbols() <= set(self._sizes)) for dim in sequences)
        return all(known) and all(size_of_dim(dim, self._sizes) >= self._shortest for dim in sequences)

    def _queries_of_a_block(self, probabilities: ir.Value) -> int:
        assert probabilities.shape is not None
        queries = size_of_dim(probabilities.shape[-2], self._sizes)
        most = int(self._block_bytes * queries / max(size_in_bytes(probabilities, self._sizes), 1))
        return rows_of_a_block(queries, min(max(most, FEWEST_QUERIES), MOST_QUERIES))


def _probabilities_of(attention: ir.Node) -> ir.Value:
    """What an Attention computes inside: (batch, heads, queries, keys)."""
    query, keys = attention.inputs[:2]
    assert query is not None
    assert query.shape is not None
    assert keys is not None
    assert keys.shape is not None
    heads = attention.attributes.get_int("q_num_heads", 0) or query.shape[1]
    shape = ir.Shape([query.shape[0], heads, query.shape[-2], keys.shape[-2]])
    return ir.Value(name="probabilities", type=query.type, shape=shape)


def _name_after(tape: Tape, node: ir.Node) -> None:
    tape.at(node.name or str(node.outputs[0].name), dict(node.metadata_props))
