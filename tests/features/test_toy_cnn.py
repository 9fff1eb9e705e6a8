"""The scores of a ToyNet, from the mean or from the middle of its map."""

import pytest
import torch

from cgsaliency.core.errors import InputError
from cgsaliency.features.toy_cnn import ToyNet


def make_network(pool: str) -> ToyNet:
    torch.manual_seed(0)
    return ToyNet(5, 12, pool).eval()


@pytest.mark.parametrize(("side", "middle"), [(48, slice(1, 2)), (64, slice(1, 3)), (80, slice(2, 3))])
def test_middle_is_one_cell_or_four(side, middle):
    network, images = make_network("middle"), torch.rand(2, 3, side, side)
    maps = network.features(images)
    expected = network.classifier(maps[:, :, middle, middle].mean((2, 3)))
    assert torch.allclose(network(images), expected, atol=1e-6)
    assert not torch.allclose(expected, make_network("mean")(images), atol=1e-3)


def test_an_unknown_pool_is_reported():
    with pytest.raises(InputError, match="there is no pool 'max'"):
        ToyNet(5, pool="max")
