"""How many random examples: few and the same ones each time, or as many others as are asked for.

`ONNXGRAD_EXAMPLES=500 pytest tests/equivalence` tries that many, drawn anew.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

_asked = int(os.environ.get("ONNXGRAD_EXAMPLES", "0"))


def _settings(examples: int) -> settings:
    return settings(
        max_examples=_asked or examples,
        deadline=None,
        derandomize=not _asked,
        database=None,
        # To find the least example that fails takes minutes.
        phases=set(Phase) - ({Phase.explain} if _asked else {Phase.shrink, Phase.explain}),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


few, some, many = _settings(8), _settings(15), _settings(40)
