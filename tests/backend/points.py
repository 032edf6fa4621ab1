"""Points near a given one: where the given one lies on a kink, on a tie, or at the edge of the domain."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

Move = Callable[[np.ndarray], np.ndarray]


def moves(random: np.random.Generator) -> Iterator[Move]:
    """First none; then by little and by more, to either side, towards zero, up, down, and to positive values.

    At last new values, where the given ones are so large (some of the suite's are what memory held) that nothing moves.
    """
    yield lambda x: x
    for size in (0.02, 0.2):

        def by(x: np.ndarray, size: float = size) -> np.ndarray:
            return size * random.uniform(0.3, 1.0, x.shape)

        yield lambda x, by=by: x + by(x) * random.choice([-1.0, 1.0], x.shape)
        yield lambda x, by=by: x * (1 - by(x))
        yield lambda x, by=by: x + by(x)
        yield lambda x, by=by: x - by(x)
        yield lambda x, by=by: np.abs(x) + by(x)
    yield lambda x: random.uniform(0.3, 1.0, x.shape)
