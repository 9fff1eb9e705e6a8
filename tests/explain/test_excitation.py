"""Excitation backprop on networks of torchvision: against TorchRay and zennit, conservation of probability, errors."""

import copy
import gc
import weakref

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from assertions import assert_input_error
from cgsaliency.core.errors import InputError
from cgsaliency.explain.cnn_rnn import bp_r, eb_r
from cgsaliency.explain.excitation import trace_forward
from cgsaliency.explain.excitation_rnn import temporal_evidence
from cgsaliency.explain.gradient import recurrent_gradient
from cgsaliency.features.frame_extractor import FC7_LAYER as FC7
from cgsaliency.features.toy_cnn import ToyVGG
from cgsaliency.models.cnn_lstm import ActionLSTM

CONTRAST_LAYER = "classifier.4"  # fc7 of VGG-16, after its ReLU


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.vgg16().eval()


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.resnet50().eval()
    for layer in network.modules():  # statistics as of a trained network
        if isinstance(layer, nn.BatchNorm2d):
            (
                layer.running_mean.uniform_(-0.1, 0.1),
                layer.running_var.uniform_(0.5, 2),
                layer.weight.data.uniform_(-0.3, 1),
                layer.bias.data.uniform_(-0.1, 0.1),
            )
    return network


def one_hot(class_index: int, num_classes: int = 1000) -> Tensor:
    return torch.eye(num_classes)[class_index][None]


def is_close(ours: Tensor, theirs: Tensor) -> bool:
    return float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


@pytest.fixture(scope="module")
def torchray():
    return pytest.importorskip(
        "torchray.attribution.excitation_backprop", reason="TorchRay is not installed: it comes with oracles.lock"
    )


@pytest.mark.slow
def test_vgg_equals_torchray(vgg, image, torchray):
    # in float64: where two values of a pooling window are nearly equal, the last digits decide the path
    network = copy.deepcopy(vgg).double()
    ours = trace_forward(network, image.double(), ["", "features.25", "features.15"]).backprop(
        one_hot(5).double(), ["", "features.25", "features.15"]
    )
    for layer in ours:
        assert is_close(
            ours[layer].sum(1, keepdim=True),
            torchray.excitation_backprop(network, image.double(), 5, saliency_layer=layer),
        ), layer


@pytest.mark.slow
def test_contrastive_vgg_equals_torchray(vgg, image, torchray):
    # in float64: with random weights the contrast is a small difference of large numbers
    network = copy.deepcopy(vgg).double()
    contrast = (
        trace_forward(network, image.double(), ["features.25"])
        .backprop(one_hot(5).double(), ["features.25"], "top")["features.25"]
        .sum(1, keepdim=True)
    )
    theirs = torchray.contrastive_excitation_backprop(
        network,
        image.double(),
        5,
        saliency_layer="features.25",
        contrast_layer=CONTRAST_LAYER,
        classifier_layer="classifier.6",
    )
    assert (contrast < 0).any() and is_close(contrast.clamp(min=0), theirs)  # TorchRay clamps negative values


@pytest.mark.slow
def test_resnet_equals_torchray_with_its_patched_residual_sums(resnet, image, torchray):
    resnet, image = copy.deepcopy(resnet).double(), image.double()
    forward_trace = trace_forward(resnet, image, ["", "layer2", "layer4"])
    ours = {
        layer: value.sum(1, keepdim=True)
        for layer, value in forward_trace.backprop(one_hot(5).double(), ["", "layer2", "layer4"]).items()
    }
    for block in resnet.modules():
        if isinstance(block, torchvision.models.resnet.Bottleneck):
            assert "forward" not in vars(block)
    patched = torchray.update_resnet(resnet)
    try:
        for layer in ours:
            assert is_close(
                ours[layer], torchray.excitation_backprop(patched, image.clone(), 5, saliency_layer=layer)
            ), layer
    finally:
        for block in resnet.modules():
            if isinstance(block, torchvision.models.resnet.Bottleneck):
                del block.forward, block.skip


@pytest.mark.slow
def test_contrastive_resnet_equals_torchray(resnet, image, torchray):
    network, image = copy.deepcopy(resnet).double(), image.double()
    ours = trace_forward(network, image, ["layer2", "layer4"]).backprop(
        one_hot(5).double(), ["layer2", "layer4"], "top"
    )
    patched = torchray.update_resnet(network)
    for layer, value in ours.items():
        theirs = torchray.contrastive_excitation_backprop(
            patched, image, 5, saliency_layer=layer, contrast_layer="avgpool", classifier_layer="fc"
        )
        contrast = value.sum(1, keepdim=True)
        assert (contrast < 0).any() and (theirs > 0).any() and is_close(contrast.clamp(min=0), theirs), layer


@pytest.mark.slow
def test_vgg_equals_zennit_without_its_stabilizer_and_biases(vgg, image):
    composites = pytest.importorskip("zennit.composites", reason="zennit is not installed: it comes with oracles.lock")
    from zennit.attribution import Gradient

    network = copy.deepcopy(vgg).double()
    with Gradient(network, composites.ExcitationBackprop(stabilizer=1e-20, zero_params=["bias"])) as attributor:
        _, theirs = attributor(image.double(), one_hot(5).double())
    assert is_close(trace_forward(network, image.double(), [""]).backprop(one_hot(5).double(), [""])[""], theirs)


def test_probability_is_conserved_at_every_layer_of_vgg(vgg, image):
    layers = ["", *(f"features.{k}" for k in range(31)), "avgpool", *(f"classifier.{k}" for k in range(6))]
    forward_trace = trace_forward(vgg, image, layers)
    for class_index in (5, 907):
        for name, P in forward_trace.backprop(one_hot(class_index), layers).items():
            assert abs(float(P.sum()) - 1) < 1e-4, name
    assert forward_trace.state.lost_mwp == {}


@pytest.mark.slow
@pytest.mark.parametrize("name, layer", [("vgg", "features.25"), ("resnet", "layer3")])
def test_several_classes_in_one_pass_equal_single_passes(name, layer, image, request):
    forward_trace = trace_forward(copy.deepcopy(request.getfixturevalue(name)).double(), image.double(), [layer])
    seeds = torch.eye(1000).double()[[5, 207, 999]][:, None]
    for contrast in (None, "top"):
        maps = forward_trace.backprop(seeds, [layer], contrast)[layer]
        for single_map, class_seed in zip(maps, seeds):
            assert is_close(single_map, forward_trace.backprop(class_seed, [layer], contrast)[layer])


def test_lost_probability_is_counted(image):
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 55 * 55, 30), nn.ReLU(), nn.Linear(30, 4)
    ).eval()
    network[5].weight.data[1] = -1.0  # nothing excites class 1
    network[0].weight.data[:3], network[0].bias.data[:3] = -0.1, 40.0
    forward_trace = trace_forward(network, image, [""])
    assert forward_trace.backprop(one_hot(1, 4), [""])[""].eq(0).all() and forward_trace.state.lost_mwp == {"5": 1.0}
    forward_trace = trace_forward(network, image, [""])
    total = float(forward_trace.backprop(one_hot(0, 4), [""])[""].sum())
    # channels that respond by their bias alone lose probability
    assert (
        0 < total < 0.999
        and set(forward_trace.state.lost_mwp) == {"0"}
        and abs(total + forward_trace.state.lost_mwp["0"] - 1) < 1e-4
    )


@pytest.mark.parametrize(
    "name, size, layer",
    [
        pytest.param("vgg11_bn", 224, "features.28", marks=pytest.mark.slow),
        ("squeezenet1_1", 224, "features"),
        ("inception_v3", 299, "Mixed_7c"),
        ("googlenet", 224, "inception5b"),
        ("resnet18", 224, "layer4"),
        ("mobilenet_v2", 224, "features.17"),
        ("densenet121", 224, "features"),
        ("alexnet", 224, "features"),
    ],
)
def test_networks_of_torchvision_conserve_probability_and_are_restored(name, size, layer):
    torch.manual_seed(0)
    options = (
        {"init_weights": False, "aux_logits": True, "transform_input": True}
        if name in ("inception_v3", "googlenet")
        else {}
    )
    network = torchvision.models.get_model(name, weights=None, **options)
    network.train()
    image = torch.rand(1, 3, size, size)
    before = (
        [(module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in network.modules()],
        [value.clone() for value in network.state_dict().values()],
        [parameter.requires_grad for parameter in network.parameters()],
    )
    forward_trace = trace_forward(network, image, ["", layer])
    P = forward_trace.backprop(one_hot(3), ["", layer])
    after = (
        [(module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in network.modules()],
        list(network.state_dict().values()),
        [parameter.requires_grad for parameter in network.parameters()],
    )
    assert before[0] == after[0] and all(map(torch.equal, before[1], after[1])) and before[2] == after[2]
    with torch.no_grad():
        assert torch.allclose(forward_trace.scores, network.eval()(image), atol=1e-4)
    total = sum(forward_trace.state.lost_mwp.values()) + float(P[""].sum())
    assert torch.isfinite(P[""]).all() and abs(total - 1) < 1e-3, (total, forward_trace.state.lost_mwp)


def test_folded_batch_norm_equals_the_fused_network(image):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, 4),
    ).eval()
    for layer in (network[1], network[4]):
        layer.running_mean.uniform_(-1, 1), layer.running_var.uniform_(0.5, 2), layer.weight.data.uniform_(-1, 1)
    fused = nn.Sequential(
        fuse_conv_bn_eval(network[0], network[1]), nn.ReLU(), fuse_conv_bn_eval(network[3], network[4]), *network[5:]
    ).eval()
    folded = trace_forward(network, image, [""], batchnorm="folded").backprop(one_hot(1, 4), [""])[""]
    assert torch.allclose(folded, trace_forward(fused, image, [""]).backprop(one_hot(1, 4), [""])[""], atol=1e-7)
    assert not torch.allclose(folded, trace_forward(network, image, [""]).backprop(one_hot(1, 4), [""])[""], atol=1e-4)
    with pytest.raises(InputError, match="layer 1: is a batch norm that no convolution"):
        trace_forward(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), image, [""], batchnorm="folded")
    with pytest.raises(InputError, match="there is no 'merged'"):
        trace_forward(network, image, [""], batchnorm="merged")


class NetworkWithUnknownLayer(nn.Module):
    def __init__(self, layer: nn.Module):
        super().__init__()
        self.stem, self.unknown, self.head = nn.Conv2d(3, 4, 3, 2), layer, nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.unknown(self.stem(images)).mean((2, 3)))


@pytest.mark.parametrize(
    "layer, name",
    [
        (nn.GELU(), "gelu"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.LayerNorm(111), "layer_norm"),
        (nn.SiLU(), "silu"),
        (nn.ConvTranspose2d(4, 4, 2), "conv_transpose2d"),
        (nn.Softmax(1), "softmax"),
    ],
)
def test_unknown_layers_are_reported_and_hooks_are_removed(layer, name, image):
    network = NetworkWithUnknownLayer(layer).train()
    with pytest.raises(InputError, match=f"layer unknown: excitation backprop has no rule for {name}"):
        trace_forward(network, image, [""])
    assert all(
        module.training and not module._forward_hooks and not module._forward_pre_hooks for module in network.modules()
    ) and all(parameter.requires_grad for parameter in network.parameters())
    trace_forward(network, image, ["unknown"])  # from the output of the unknown layer on, all rules are known


def test_values_that_are_not_finite_are_reported(vgg, image):
    original = vgg.features[7].weight.data[3, 2].clone()
    try:
        vgg.features[7].weight.data[3, 2] = torch.nan
        assert assert_input_error(
            lambda: trace_forward(vgg, image, ["features.25"]), "layer features.7: gives numbers that are not finite"
        ).hint.startswith("Check the network's weights")
    finally:
        vgg.features[7].weight.data[3, 2] = original
    assert (
        assert_input_error(
            lambda: trace_forward(vgg, image * torch.inf, ["features.25"]),
            "input: 150528 of its numbers are not finite",
        ).hint
        == "Check how the images were read"
    )
    assert_input_error(
        lambda: trace_forward(vgg, image, ["conv5_1"]), "network: has no layer 'conv5_1'", "Choose one of its layers"
    )


def test_values_that_are_not_finite_in_one_frame_are_reported():
    """The error names the layer that gives such values, not the one that reads them, and hooks are removed."""
    torch.manual_seed(0)
    network, recognizer, clip = (
        ToyVGG(3, channels=8, hidden_dim=6).eval(),
        ActionLSTM(("Biking", "Diving"), feature_dim=6, hidden_dim=5),
        torch.rand(5, 3, 112, 112),
    )

    def count_hooks() -> list[int]:
        return [len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in network.modules()]

    clip[3, 1, 40, 40] = torch.nan
    for explain in (eb_r, bp_r):
        assert_input_error(
            lambda: explain(network, FC7, recognizer, clip, {"Diving": 1}, "features.9", batch_size=2),
            "input: 1 of its numbers are not finite",
            "Check how the images were read",
        )
    clip[3, 1, 40, 40] = 0.5
    network.features[3].bias.data[0] = torch.inf
    for explain in (eb_r, bp_r):
        assert_input_error(
            lambda: explain(network, FC7, recognizer, clip, {"Diving": 1}, "features.9", batch_size=2),
            "layer features.3: gives numbers that are not finite",
            "Check the network's weights",
        )
    assert not any(count_hooks()) and not network.training
    network.features[3].bias.data[0] = 0.0
    for explain in (eb_r, bp_r):
        assert torch.isfinite(
            explain(network, FC7, recognizer, clip, {"Diving": 1}, "features.9", batch_size=2).saliency
        ).all()
    features = torch.rand(2, 7, 6)
    features[1, 4, 0] = torch.nan
    for explain in (temporal_evidence, recurrent_gradient):
        assert_input_error(
            lambda: explain(recognizer, features, 1),
            "sequence 1, step 4: has features that are not finite",
            "Make the features again",
        )


def test_excitation_backprop_is_deterministic(vgg, image):
    maps = [
        trace_forward(vgg, image, ["features.25"]).backprop(one_hot(5), ["features.25"], "top")["features.25"]
        for _ in range(2)
    ]
    assert torch.equal(*maps)


def test_a_trace_is_freed_with_its_activations():
    "The graph of a forward pass must not keep itself alive; the activations of many frames would fill the memory."
    network = ToyVGG(3, channels=16, hidden_dim=8).eval()
    trace = trace_forward(network, torch.rand(1, 3, 112, 112), ["features.9"], FC7)
    trace.backprop(torch.rand_like(trace.start_output), ["features.9"])
    state, activation = weakref.ref(trace.state), weakref.ref(trace.outputs["features.9"])
    del trace
    gc.collect()
    assert state() is None and activation() is None
