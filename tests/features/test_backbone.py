"""Backbones: layers and their names, and real weights on real photographs."""

from dataclasses import replace

import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from cgsaliency.core.errors import InputError
from cgsaliency.features.backbone import BACKBONES, Backbone, list_layers

# Layers of VGG-16 by the papers' names


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    return torchvision.models.vgg16().eval()


@pytest.mark.parametrize(
    "name, module_name",
    [
        ("conv1_1", "features.1"),
        ("conv5_3", "features.29"),
        ("features.28", "features.28"),
        ("pool5", "features.30"),
        ("fc6", "classifier.1"),
        ("classifier.3", "classifier.3"),
        ("fc7", "classifier.4"),
    ],
)
def test_vgg_layer_names_give_the_outputs_of_their_modules(vgg, monkeypatch, name, module_name):
    "The outputs are kept where an in-place ReLU follows, too."
    outputs = {}
    handle = vgg.get_submodule(module_name).register_forward_hook(
        lambda *arguments: outputs.update(map=arguments[2].clone())
    )
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    spec = BACKBONES["vgg16"]
    with torch.inference_mode():
        vgg((images - torch.tensor(spec.mean).view(3, 1, 1)) / torch.tensor(spec.std).view(3, 1, 1))
    handle.remove()
    monkeypatch.setitem(BACKBONES, "vgg16", replace(spec, build=lambda: vgg))  # the same weights, built once
    backbone = Backbone("vgg16", name, size=64)
    assert torch.equal(backbone(images), outputs["map"])
    assert (backbone.grid is None) == name.startswith(("fc", "classifier")) and (outputs["map"].min() < 0) == (
        name in ("features.28", "classifier.3")
    )


def test_errors_about_unknown_layers_name_similar_ones():
    with pytest.raises(InputError, match=r"has no layer 'Mixed_7d'.*Mixed_7"):
        Backbone("inception_v3", "Mixed_7d")
    with pytest.raises(InputError, match="there is no 'vgg'"):
        list_layers("vgg")
    with pytest.raises(InputError, match="layer avgpool: AdaptiveAvgPool2d has no local receptive field"):
        Backbone("resnet50", "avgpool", size=64)


# Real weights


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2"])
def test_real_weights_recognize_dogs_in_photographs(shared_data, name):
    """Most photographs whose five captions all contain 'dog' are classified as dogs: layer, normalization and order of
    colors are right."""
    photographs = shared_data / "flickr30k/flickr30k-images"
    mentions_dog: dict[str, list[bool]] = {}
    for line in (shared_data / "flickr30k/results_20130124.token").read_text(encoding="utf-8").splitlines():
        file_name, caption = line.split("\t", 1)
        mentions_dog.setdefault(file_name.split("#")[0], []).append("dog" in caption.lower().split())
    dogs = [
        file_name
        for file_name, mentions in sorted(mentions_dog.items())
        if len(mentions) == 5 and all(mentions) and (photographs / file_name).exists()
    ][:32]
    assert len(dogs) == 32
    images_ = torch.stack(
        [pil_to_tensor(Image.open(photographs / file_name).convert("RGB")).float() / 255 for file_name in dogs]
    )
    network = Backbone(
        name,
        "flatten" if name == "squeezenet1_1" else "classifier",
        shared_data / f"weights/{name}_imagenet_fp16.safetensors",
    )

    def share_of_dogs(images_):
        with torch.inference_mode():
            best = network(images_).argmax(1)
        return ((best >= 151) & (best <= 268)).float().mean().item()  # the dog classes of ImageNet

    # pixels in another range are not classified as dogs
    assert share_of_dogs(images_) >= 0.6 > share_of_dogs(images_ / 255)


def test_real_features_for_excitation_backprop_are_not_negative(shared_data):
    network = Backbone("squeezenet1_1", weights=shared_data / "weights/squeezenet1_1_imagenet_fp16.safetensors")
    assert network(torch.rand(1, 3, 224, 224)).min() >= 0 and network.grid.rows == 13
