"""Mini-batches of arrays in memory, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..passes.errors import InputError


class Batches:
    """Arrays of equal length, cut into mini-batches of dicts; iterate over it once an epoch.

    Args:
        arrays: by the names of the graph inputs, all with the samples on axis 0.
        batch_size: samples a batch; the last one may be smaller.
        shuffle: in another order each epoch, the same for the same *seed* and epoch.
        drop_last: leave a smaller last batch out.

    Raises InputError for arrays of unequal length or without samples, and for a batch size that they cannot fill.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        lengths = {name: len(array) if np.ndim(array) else 0 for name, array in arrays.items()}
        if not lengths or min(lengths.values()) == 0:
            raise InputError("There are no samples in the data")
        if len(set(lengths.values())) > 1:
            described = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
            raise InputError(f"The arrays have different numbers of samples: {described}")
        if batch_size < 1:
            raise InputError(f"batch_size is at least 1, not {batch_size}")
        if seed < 0:
            raise InputError(f"seed is at least 0, not {seed}")
        self._arrays = dict(arrays)
        self._samples = next(iter(lengths.values()))
        if drop_last and self._samples < batch_size:
            raise InputError(f"There are {self._samples} samples, which fill no batch of {batch_size}")
        self._batch_size = batch_size
        self._shuffle, self._seed, self._drop_last = shuffle, seed, drop_last
        self._epoch = 0

    def __len__(self) -> int:
        whole, rest = divmod(self._samples, self._batch_size)
        return whole + (1 if rest and not self._drop_last else 0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order: that of epoch number *epoch*."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        order = np.arange(self._samples)
        if self._shuffle:
            np.random.default_rng([self._seed, self._epoch]).shuffle(order)
        for batch in range(len(self)):
            chosen = order[batch * self._batch_size : (batch + 1) * self._batch_size]
            yield {name: array[chosen] for name, array in self._arrays.items()}
