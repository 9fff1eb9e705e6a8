"""A region encoder: the features of the whole network, regions at each stride, transformers, views of proposals."""

import pytest
import torch
from torch import nn

from cgsaliency.features.backbone import BACKBONES
from cgsaliency.features.region_encoder import RegionEncoder, canvas_side, pad_to_canvas, proposal_view


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


@pytest.fixture(scope="module")
def gamma():
    "γ of two random images, from a random network."
    torch.manual_seed(0)
    with torch.no_grad():
        return RegionEncoder("toyvgg").lower_features(torch.rand(2, 3, 112, 112))


def make_encoder(region_type, **kwargs):
    "Return an encoder with the same network each time."
    torch.manual_seed(0)
    return RegionEncoder("toyvgg", region_type, **kwargs).eval()


@pytest.mark.parametrize("stride", (1, 2, 3, 4, 7, 14))
def test_a_stride_at_test_time_takes_every_nth_cell(gamma, stride):
    encoder = make_encoder("grid", stride=2)
    start = (stride - 1) // 2
    with torch.no_grad():
        features, corners, _ = encoder.encode_regions(gamma, stride=stride)
        expected = encoder.upper_features(gamma)[:, :, start::stride, start::stride].flatten(2).mT
    assert torch.equal(features, expected)
    widths = corners[..., 1, 0] - corners[..., 0, 0]
    assert torch.allclose(widths, torch.full_like(widths, float(stride * encoder.grid.stride_x)))


def test_regions_of_a_stride_are_those_of_an_encoder_with_this_stride(gamma):
    for region_type in ("grid", "spatial_transformers"):
        with torch.no_grad():
            at_test_time = make_encoder(region_type, stride=2).encode_regions(gamma, stride=7)
            trained = make_encoder(region_type, stride=7).encode_regions(gamma)
        assert all(map(torch.equal, at_test_time, trained))


def untransformed(scale, border):
    "Return an encoder whose localization network gives zeros, with the network of `make_encoder`."
    encoder = make_encoder("spatial_transformers", stride=1, scale=scale, border=border)
    encoder.network.load_state_dict(make_encoder("grid").network.state_dict())
    for parameter in encoder.spatial_transformer.localization.parameters():
        nn.init.zeros_(parameter)
    return encoder


def test_transformers_that_change_nothing_are_the_grid(gamma):
    "aoa, section 3.3: if the transformations leave the anchors unchanged, this is the activation grid."
    with torch.no_grad():
        grid = make_encoder("grid", stride=1).encode_regions(gamma)[0].unflatten(1, (14, 14))
        same = untransformed(1.0, 1).encode_regions(gamma)[0].unflatten(1, (14, 14))
        clamped = untransformed(1.0, 0).encode_regions(gamma)[0].unflatten(1, (14, 14))
        larger = untransformed(2.0, 1).encode_regions(gamma)[0].unflatten(1, (14, 14))
    tolerance = 1e-5 * grid.abs().max()
    assert (same - grid).abs().max() < tolerance
    # without a border of zeros, cells at the edge repeat in place of the zeros that the convolution reads
    assert (clamped - grid)[:, 1:-1, 1:-1].abs().max() < tolerance < (clamped - grid)[:, 0].abs().max()
    assert (larger - grid)[:, 3:-3, 3:-3].abs().max() > 100 * tolerance


def test_transformers_begin_near_twice_the_size_of_their_anchors(gamma):
    with torch.no_grad():
        corners = make_encoder("spatial_transformers", stride=2).encode_regions(gamma)[1]
    sides = (corners[..., 1, :] - corners[..., 0, :]).norm(dim=-1)
    assert ((sides / (2 * 3 * 8) - 1).abs() < 0.2).all()


@pytest.mark.parametrize(
    ("size", "expected"),
    (
        ((640, 480), (400, 300)),
        ((480, 640), (300, 400)),
        ((500, 500), (300, 300)),
        ((1000, 200), (450, 90)),  # the longest side is limited by the canvas
    ),
)
def test_the_view_of_proposals_keeps_the_aspect_ratio_at_300_pixels(size, expected):
    view = proposal_view(*size, 224)
    assert (view.input_width, view.input_height) == expected and canvas_side(224) == 450
    assert (view.left, view.top, view.width, view.height) == (0, 0, *size)


def test_a_canvas_has_the_mean_color_beside_the_image():
    canvas = pad_to_canvas(torch.rand(3, 150, 200), "toyvgg")
    mean = torch.tensor(BACKBONES["toyvgg"].mean)
    assert canvas.shape == (3, 225, 225)
    assert torch.equal(canvas[:, 150:].amax((1, 2)), mean) and torch.equal(canvas[:, :, 200:].amin((1, 2)), mean)


def test_what_lies_outside_a_box_does_not_change_its_descriptor():
    torch.manual_seed(0)
    encoder, box = make_encoder("proposals"), torch.tensor([[[0.0, 0.0, 104.0, 104.0]]])
    with torch.no_grad():
        lower = encoder.lower_features(torch.rand(1, 3, 112, 112))
        maps = encoder.proposal_features(torch.rand(1, 3, 225, 225))
        changed = maps.clone()
        changed[..., 14:, :] += 9
        changed[..., 14:] += 9
        features, others = (encoder.encode_regions(lower, box, values)[0] for values in (maps, changed))
    assert torch.equal(features, others) and torch.equal(features[0, 0], maps[0, :, :13, :13].amax((1, 2)))
