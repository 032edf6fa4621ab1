import numpy as np, torch
import pytest
from .checking import check_rule


def sample(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0.5, 2, shape)


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1, 3), (4, 1)), ((), (2,))])
def test_mul(shapes):
    a, b = shapes
    check_rule("Mul", [sample(*a), sample(*b, seed=1)], torch_function=torch.mul)
    check_rule("Sub", [sample(*a), sample(*b, seed=1)], torch_function=torch.sub)
