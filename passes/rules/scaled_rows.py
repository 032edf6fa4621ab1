"""What the backward parts of the normalizations with a scale for each element of a row have in common."""

from __future__ import annotations

from functools import cached_property

from ..tape import Tensor


class ScaledRows:
    """Sums in the backward part of y = scale x̂ for x̂ = x s, where each row of *x* has its own s.

    All sums are products with vectors, so that no more tensors of the size of *x* are written than need be.

    Args:
        dy: the cotangent of y, of the shape of *x*.
        scale: broadcastable to the axes of a row.
        x: what is scaled, as it is, or less the mean of each row.
        inv_std: s, with the shape of *x* but for ones along the axes of a row.
        axis: the first axis of a row.
    """

    def __init__(self, dy: Tensor, scale: Tensor, x: Tensor, inv_std: Tensor, axis: int) -> None:
        self.dy, self.scale, self.x, self.inv_std, self.axis = dy, scale, x, inv_std, axis

    @property
    def operands(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The tensors from which the sums are computed."""
        return self.dy, self.scale, self.x, self.inv_std

    def less_projection(self) -> Tensor:
        """g - x̂ mean(g x̂) for g = scale dy."""
        along = self._row_means(self._product) * self.inv_std * self.inv_std
        return self.dy * self.scale - self.x * along

    def mean(self) -> Tensor:
        """The mean of g = scale dy over each row, with its axes kept."""
        return self._row_means(self.dy.flatten(self.axis))

    def dscale(self) -> Tensor:
        """The sum of dy x̂ over all rows."""
        op = self.x.op
        total = op.Gemm(self.inv_std.reshape([1, -1]), self._product)
        return total.reshape(self.x.sizes(range(self.axis, self.x.rank)))

    @cached_property
    def _product(self) -> Tensor:
        return (self.dy * self.x).flatten(self.axis)

    @cached_property
    def _weights(self) -> Tensor:
        """The scale of each element of a row, as a row."""
        sizes = self.x.shape[self.axis :]
        whole = self.scale.shape == sizes and None not in sizes
        scale = self.scale if whole else self.x.op.Expand(self.scale, self.x.sizes(range(self.axis, self.x.rank)))
        return scale.reshape([1, -1])

    def _row_means(self, matrix: Tensor) -> Tensor:
        """The means of the rows of *matrix*, weighted with the scale."""
        op, count = self.x.op, self.x.count(range(self.axis, self.x.rank))
        known = count.constant
        if known is not None:
            total = op.Gemm(self._weights, matrix, transB=1, alpha=1 / float(known))
        else:
            total = op.Gemm(self._weights, matrix, transB=1) / count
        return total.reshape_like(self.inv_std)
