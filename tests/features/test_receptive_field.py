"""Receptive fields against the gradient of the network, made linear and positive."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from cgsaliency.features.backbone import BACKBONES, Backbone
from cgsaliency.features.receptive_field import receptive_field


def layer_output(name: str, layer: str) -> nn.Module:
    with torch.device("meta"):
        return create_feature_extractor(BACKBONES[name].build().eval(), {layer: "map"}, suppress_diff_warning=True)


def averaging_network(name: str, layer: str) -> nn.Module:
    """Return the network up to the layer, made linear and positive: convolutions and max pooling take means, so that a
    gradient is zero only outside the receptive field."""
    trunk = layer_output(name, layer).double().to_empty(device="cpu").requires_grad_(False)
    for node in trunk.graph.nodes:
        if node.target is F.max_pool2d:
            node.target = mean_pool
    trunk.recompile()
    for path, module in list(trunk.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            trunk.set_submodule(path, nn.AvgPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode))
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats(), module.weight.fill_(1), module.bias.zero_()
        if isinstance(module, nn.Conv2d):
            module.weight.fill_(1 / module.weight[0].numel())
            if module.bias is not None:
                module.bias.zero_()
    return trunk


def mean_pool(values, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    assert dilation == 1 and not return_indices
    return F.avg_pool2d(values, kernel_size, stride, padding, ceil_mode)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, layer, expected",
    [
        ("vgg16", "features.29", (196, 16, 8.0)),
        ("inception_v3", "Mixed_7c", (1311, 32, 37.5)),
        ("squeezenet1_1", "features", (207, 16, 15.5)),
        ("resnet50", "layer4", (427, 32, 0.5)),
        ("mobilenet_v2", "features", (491, 32, 0.5)),
        ("toynet", "features", (46, 16, 8.0)),
        ("inception_v3", "Mixed_6e", None),
    ],
)
def test_receptive_fields_are_where_the_gradient_is_not_zero(name, layer, expected):
    field, trunk = receptive_field(layer_output(name, layer)), averaging_network(name, layer)
    assert expected in (None, (field.size, field.stride, field.first_center))
    # a cell whose field lies inside the input
    cell = int((field.size / 2 - field.first_center) // field.stride) + 2
    # long along one axis, narrow along the other
    for axis in (0, 1):
        shape = [96, 96]
        shape[axis] = int(field.first_center + cell * field.stride + field.size / 2) + field.stride
        # small: ReLU6 must not saturate
        image = torch.full((1, 3, *shape), 1e-9, dtype=torch.float64, requires_grad=True)
        values = trunk(image)["map"][0].sum(0)
        values.select(axis, cell)[values.shape[1 - axis] // 2].backward()
        positions = image.grad[0].sum((0, 2 - axis)).nonzero().flatten()
        low, high = positions[0].item(), positions[-1].item() + 1
        assert (high - low, (high + low) / 2) == (field.size, field.first_center + cell * field.stride)


def test_mixed_10_has_the_centers_of_the_paper():
    "The centers are pixels 37 + 32 i of 299, counted from 0; in continuous coordinates they are half a pixel further."
    grid = Backbone("inception_v3", "mixed_10").grid
    assert grid.centers[0, :, 0].tolist() == grid.centers[:, 0, 1].tolist() == [37 + 32 * i + 0.5 for i in range(8)]
