"""The features of a region encoder are those of the whole network."""

import pytest
import torch

from cgsaliency.features.backbone import BACKBONES
from cgsaliency.features.region_encoder import RegionEncoder


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, spec in BACKBONES.items() if spec.split is not None])
def test_features_are_those_of_the_whole_network(name):
    "Lower features, upper features and image vector are the values of the whole network."
    torch.manual_seed(0)
    encoder, split = RegionEncoder(name).eval(), BACKBONES[name].split
    image, outputs = torch.rand(1, 3, encoder.size, encoder.size), []
    layer = encoder.network.classifier[split.classifier_end - 1] if split.classifier_end else encoder.network.features
    handle = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        encoder.network((image - encoder.mean) / encoder.std)
        expected = outputs[0] if split.classifier_end else outputs[0].mean((2, 3))
        image_vector = encoder.image_vector(encoder.upper_features(encoder.lower_features(image)))
    handle.remove()
    assert torch.allclose(image_vector, expected, atol=1e-5)
