"""Excitation backprop on torchvision's networks as they are: against other implementations, conservation, and what it refuses."""
import copy

import pytest
import torch
import torchvision
from faults import refused
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cgsaliency.core.errors import BadInput
from cgsaliency.explain.excitation import follow
from cgsaliency.explain.frames import bp_r, eb_r
from cgsaliency.explain.gradient import gradient_in_time
from cgsaliency.explain.recurrent import evidence_in_time
from cgsaliency.models.action import SOURCE as FC7, ActionRecogniser, ToyVGG

SOURCE = "classifier.4"   # fc7 of VGG-16, after its ReLU


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.vgg16().eval()


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.resnet50().eval()
    for layer in network.modules():              # statistics of a trained network are not those of the first day
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.1, 0.1), layer.running_var.uniform_(0.5, 2), layer.weight.data.uniform_(-0.3, 1), layer.bias.data.uniform_(-0.1, 0.1)
    return network


def seed_of(number: int, classes: int = 1000) -> Tensor: return torch.eye(classes)[number][None]


def close(ours: Tensor, theirs: Tensor) -> bool: return float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


@pytest.fixture(scope="module")
def torchray():
    return pytest.importorskip("torchray.attribution.excitation_backprop", reason="TorchRay is not installed: it comes with oracles.lock")


def test_vgg_as_torchray(vgg, picture, torchray):
    network = copy.deepcopy(vgg).double()         # where two responses of a pooling window are nearly the same, the last digit decides the way down
    ours = follow(network, picture.double(), ["", "features.25", "features.15"]).evidence(seed_of(5).double(), ["", "features.25", "features.15"])
    for layer in ours: assert close(ours[layer].sum(1, keepdim=True), torchray.excitation_backprop(network, picture.double(), 5, saliency_layer=layer)), layer


def test_the_contrast_as_torchray(vgg, picture, torchray):
    network = copy.deepcopy(vgg).double()         # of random weights the contrast is a small difference of large numbers
    contrast = follow(network, picture.double(), ["features.25"]).evidence(seed_of(5).double(), ["features.25"], "top")["features.25"].sum(1, keepdim=True)
    theirs = torchray.contrastive_excitation_backprop(network, picture.double(), 5, saliency_layer="features.25", contrast_layer=SOURCE, classifier_layer="classifier.6")
    assert (contrast < 0).any() and close(contrast.clamp(min=0), theirs)      # they cut off what is below zero


def test_resnet_as_torchray_where_their_residual_sums_are_patched(resnet, picture, torchray):
    resnet, picture = copy.deepcopy(resnet).double(), picture.double()
    followed = follow(resnet, picture, ["", "layer2", "layer4"])
    ours = {layer: value.sum(1, keepdim=True) for layer, value in followed.evidence(seed_of(5).double(), ["", "layer2", "layer4"]).items()}
    for block in resnet.modules():
        if isinstance(block, torchvision.models.resnet.Bottleneck): assert "forward" not in vars(block)
    patched = torchray.update_resnet(resnet)
    try:
        for layer in ours: assert close(ours[layer], torchray.excitation_backprop(patched, picture.clone(), 5, saliency_layer=layer)), layer
    finally:
        for block in resnet.modules():
            if isinstance(block, torchvision.models.resnet.Bottleneck): del block.forward, block.skip


def test_the_contrast_of_resnet_as_torchray(resnet, picture, torchray):
    network, picture = copy.deepcopy(resnet).double(), picture.double()
    ours = follow(network, picture, ["layer2", "layer4"]).evidence(seed_of(5).double(), ["layer2", "layer4"], "top")
    patched = torchray.update_resnet(network)
    for layer, value in ours.items():
        theirs = torchray.contrastive_excitation_backprop(patched, picture, 5, saliency_layer=layer, contrast_layer="avgpool", classifier_layer="fc")
        contrast = value.sum(1, keepdim=True)
        assert (contrast < 0).any() and (theirs > 0).any() and close(contrast.clamp(min=0), theirs), layer


def test_vgg_as_zennit_without_its_stabiliser_and_biases(vgg, picture):
    composites = pytest.importorskip("zennit.composites", reason="zennit is not installed: it comes with oracles.lock")
    from zennit.attribution import Gradient

    network = copy.deepcopy(vgg).double()
    with Gradient(network, composites.ExcitationBackprop(stabilizer=1e-20, zero_params=["bias"])) as attributor: _, theirs = attributor(picture.double(), seed_of(5).double())
    assert close(follow(network, picture.double(), [""]).evidence(seed_of(5).double(), [""])[""], theirs)


def test_probability_is_kept_at_every_layer_of_vgg(vgg, picture):
    layers = ["", *(f"features.{k}" for k in range(31)), "avgpool", *(f"classifier.{k}" for k in range(6))]
    followed = follow(vgg, picture, layers)
    for number in (5, 907):
        for name, P in followed.evidence(seed_of(number), layers).items(): assert abs(float(P.sum()) - 1) < 1e-4, name
    assert followed.run.lost == {}


@pytest.mark.parametrize("name, layer", [("vgg", "features.25"), ("resnet", "layer3")])
def test_many_classes_go_down_together_as_one_by_one(name, layer, picture, request):
    followed = follow(copy.deepcopy(request.getfixturevalue(name)).double(), picture.double(), [layer])
    seeds = torch.eye(1000).double()[[5, 207, 999]][:, None]
    for contrast in (None, "top"):
        together = followed.evidence(seeds, [layer], contrast)[layer]
        for one, seed in zip(together, seeds): assert close(one, followed.evidence(seed, [layer], contrast)[layer])


def test_what_is_dropped_is_counted(picture):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 6, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 55 * 55, 30), nn.ReLU(), nn.Linear(30, 4)).eval()
    network[5].weight.data[1] = -1.0                        # nothing excites class 1
    network[0].weight.data[:3], network[0].bias.data[:3] = -0.1, 40.0
    followed = follow(network, picture, [""])
    assert followed.evidence(seed_of(1, 4), [""])[""].eq(0).all() and followed.run.lost == {"5": 1.0}
    followed = follow(network, picture, [""])
    kept = float(followed.evidence(seed_of(0, 4), [""])[""].sum())
    assert 0 < kept < 0.999 and set(followed.run.lost) == {"0"} and abs(kept + followed.run.lost["0"] - 1) < 1e-4      # channels alive by their bias alone


@pytest.mark.parametrize("name, size, layer", [("vgg11_bn", 224, "features.28"), ("squeezenet1_1", 224, "features"), ("inception_v3", 299, "Mixed_7c"), ("googlenet", 224, "inception5b"), ("resnet18", 224, "layer4"),
                                               ("mobilenet_v2", 224, "features.17"), ("densenet121", 224, "features"), ("alexnet", 224, "features")])
def test_torchvision_as_it_is(name, size, layer):
    torch.manual_seed(0)
    options = {"init_weights": False, "aux_logits": True, "transform_input": True} if name in ("inception_v3", "googlenet") else {}
    network = torchvision.models.get_model(name, weights=None, **options)
    network.train()
    picture = torch.rand(1, 3, size, size)
    before = [(module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in network.modules()], [value.clone() for value in network.state_dict().values()], [one.requires_grad for one in network.parameters()]
    followed = follow(network, picture, ["", layer])
    P = followed.evidence(seed_of(3), ["", layer])
    after = [(module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in network.modules()], list(network.state_dict().values()), [one.requires_grad for one in network.parameters()]
    assert before[0] == after[0] and all(map(torch.equal, before[1], after[1])) and before[2] == after[2]
    with torch.no_grad(): assert torch.allclose(followed.scores, network.eval()(picture), atol=1e-4)
    total = sum(followed.run.lost.values()) + float(P[""].sum())
    assert torch.isfinite(P[""]).all() and abs(total - 1) < 1e-3, (total, followed.run.lost)


def test_folded_batch_norm_is_the_network_without_it(picture):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 4)).eval()
    for layer in (network[1], network[4]): layer.running_mean.uniform_(-1, 1), layer.running_var.uniform_(0.5, 2), layer.weight.data.uniform_(-1, 1)
    fused = nn.Sequential(fuse_conv_bn_eval(network[0], network[1]), nn.ReLU(), fuse_conv_bn_eval(network[3], network[4]), *network[5:]).eval()
    folded = follow(network, picture, [""], batchnorm="folded").evidence(seed_of(1, 4), [""])[""]
    assert torch.allclose(folded, follow(fused, picture, [""]).evidence(seed_of(1, 4), [""])[""], atol=1e-7)
    assert not torch.allclose(folded, follow(network, picture, [""]).evidence(seed_of(1, 4), [""])[""], atol=1e-4)
    with pytest.raises(BadInput, match="layer 1: is a batch norm that no convolution"): follow(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), picture, [""], batchnorm="folded")
    with pytest.raises(BadInput, match="there is no 'merged'"): follow(network, picture, [""], batchnorm="merged")


class Unknown(nn.Module):
    def __init__(self, layer: nn.Module):
        super().__init__()
        self.stem, self.odd, self.head = nn.Conv2d(3, 4, 3, 2), layer, nn.Linear(4, 2)

    def forward(self, pictures: Tensor) -> Tensor: return self.head(self.odd(self.stem(pictures)).mean((2, 3)))


@pytest.mark.parametrize("layer, name", [(nn.GELU(), "gelu"), (nn.Sigmoid(), "sigmoid"), (nn.LayerNorm(111), "layer_norm"), (nn.SiLU(), "silu"), (nn.ConvTranspose2d(4, 4, 2), "conv_transpose2d"), (nn.Softmax(1), "softmax")])
def test_an_unknown_layer_is_named_and_nothing_stays_behind(layer, name, picture):
    network = Unknown(layer).train()
    with pytest.raises(BadInput, match=f"layer odd: excitation backprop has no rule for {name}"): follow(network, picture, [""])
    assert all(module.training and not module._forward_hooks and not module._forward_pre_hooks for module in network.modules()) and all(one.requires_grad for one in network.parameters())
    follow(network, picture, ["odd"])           # from behind it, everything is known


def test_numbers_that_are_not_finite_are_found(vgg, picture):
    kept = vgg.features[7].weight.data[3, 2].clone()
    try:
        vgg.features[7].weight.data[3, 2] = torch.nan
        assert refused(lambda: follow(vgg, picture, ["features.25"]), "layer features.7: gives numbers that are not finite").remedy.startswith("Check the network's weights")
    finally: vgg.features[7].weight.data[3, 2] = kept
    assert refused(lambda: follow(vgg, picture * torch.inf, ["features.25"]), "input: 150528 of its numbers are not finite").remedy == "Check how the pictures were read"
    refused(lambda: follow(vgg, picture, ["conv5_1"]), "network: has no layer 'conv5_1'", "Choose one of its layers")


def test_numbers_that_are_not_finite_are_found_in_one_frame_of_a_clip():
    "The network and the recogniser are as before, and the layer is named that breaks, not the one that it is noticed at."
    torch.manual_seed(0)
    network, recogniser, clip = ToyVGG(3, width=8, units=6).eval(), ActionRecogniser(("Biking", "Diving"), features=6, hidden=5), torch.rand(5, 3, 112, 112)
    hooks = lambda: [len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in network.modules()]
    clip[3, 1, 40, 40] = torch.nan
    for explain in (eb_r, bp_r): refused(lambda: explain(network, FC7, recogniser, clip, {"Diving": 1}, "features.9", together=2), "input: 1 of its numbers are not finite", "Check how the pictures were read")
    clip[3, 1, 40, 40] = 0.5
    network.features[3].bias.data[0] = torch.inf
    for explain in (eb_r, bp_r): refused(lambda: explain(network, FC7, recogniser, clip, {"Diving": 1}, "features.9", together=2), "layer features.3: gives numbers that are not finite", "Check the network's weights")
    assert not any(hooks()) and not network.training
    network.features[3].bias.data[0] = 0.0
    for explain in (eb_r, bp_r): assert torch.isfinite(explain(network, FC7, recogniser, clip, {"Diving": 1}, "features.9", together=2).saliency).all()
    features = torch.rand(2, 7, 6)
    features[1, 4, 0] = torch.nan
    for explain in (evidence_in_time, gradient_in_time): refused(lambda: explain(recogniser, features, 1), "sequence 1, step 4: has features that are not finite", "Make the features again")


def test_the_same_again(vgg, picture):
    ours = [follow(vgg, picture, ["features.25"]).evidence(seed_of(5), ["features.25"], "top")["features.25"] for _ in range(2)]
    assert torch.equal(*ours)
