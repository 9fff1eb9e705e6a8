"Backbones against their slow twins, weights that do not fit, and real weights on real photographs."
import pickle
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms.functional import pil_to_tensor

from cgsaliency.core.errors import BadInput
from cgsaliency.models.backbone import NETWORKS, Backbone, ToyNet, layers_of
from cgsaliency.models.receptive import receptive_field


# What a cell sees

def cut(name: str, layer: str) -> nn.Module:
    with torch.device("meta"): return create_feature_extractor(NETWORKS[name].build().eval(), {layer: "map"}, suppress_diff_warning=True)


def averaging(name: str, layer: str) -> nn.Module:
    "The network up to the layer, linear and positive: convolutions and maxima take means, so that a gradient is zero only where nothing is seen."
    trunk = cut(name, layer).double().to_empty(device="cpu").requires_grad_(False)
    for node in trunk.graph.nodes:
        if node.target is F.max_pool2d: node.target = mean_pool
    trunk.recompile()
    for path, part in list(trunk.named_modules()):
        if isinstance(part, nn.MaxPool2d): trunk.set_submodule(path, nn.AvgPool2d(part.kernel_size, part.stride, part.padding, part.ceil_mode))
        if isinstance(part, nn.BatchNorm2d): part.reset_running_stats(), part.weight.fill_(1), part.bias.zero_()
        if isinstance(part, nn.Conv2d):
            part.weight.fill_(1 / part.weight[0].numel())
            if part.bias is not None: part.bias.zero_()
    return trunk


def mean_pool(values, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    assert dilation == 1 and not return_indices
    return F.avg_pool2d(values, kernel_size, stride, padding, ceil_mode)


@pytest.mark.parametrize("name, layer, known", [
    ("vgg16", "features.29", (196, 16, 8.0)), ("inception_v3", "Mixed_7c", (1311, 32, 37.5)), ("squeezenet1_1", "features", (207, 16, 15.5)),
    ("resnet50", "layer4", (427, 32, 0.5)), ("mobilenet_v2", "features", (491, 32, 0.5)), ("toynet", "features", (46, 16, 8.0)), ("inception_v3", "Mixed_6e", None)])
def test_a_field_is_where_the_gradient_is(name, layer, known):
    field, trunk = receptive_field(cut(name, layer)), averaging(name, layer)
    assert known in (None, (field.size, field.stride, field.start))
    cell = int((field.size / 2 - field.start) // field.stride) + 2                       # its field lies inside the input
    for axis in (0, 1):                                                                  # long along one axis, narrow along the other
        shape = [96, 96]
        shape[axis] = int(field.start + cell * field.stride + field.size / 2) + field.stride
        picture = torch.full((1, 3, *shape), 1e-9, dtype=torch.float64, requires_grad=True)   # small: ReLU6 must not saturate
        values = trunk(picture)["map"][0].sum(0)
        values.select(axis, cell)[values.shape[1 - axis] // 2].backward()
        seen = picture.grad[0].sum((0, 2 - axis)).nonzero().flatten()
        low, high = seen[0].item(), seen[-1].item() + 1
        assert (high - low, (high + low) / 2) == (field.size, field.start + cell * field.stride)


def test_mixed_10_has_the_papers_centres():
    "Centres at pixels 37 + 32 i of 299, counted from 0: their middles are half a pixel further in continuous coordinates."
    grid = Backbone("inception_v3", "mixed_10").grid
    assert grid.centres[0, :, 0].tolist() == grid.centres[:, 0, 1].tolist() == [37 + 32 * i + 0.5 for i in range(8)]


# VGG-16 by the papers' names

@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    return torchvision.models.vgg16().eval()


@pytest.mark.parametrize("name, place", [("conv1_1", "features.1"), ("conv5_3", "features.29"), ("features.28", "features.28"), ("pool5", "features.30"), ("fc6", "classifier.1"), ("classifier.3", "classifier.3"), ("fc7", "classifier.4")])
def test_vgg_layers_are_what_they_are_called(vgg, monkeypatch, name, place):
    "Also where torchvision's ReLU overwrites the layer before it."
    kept = {}
    handle = vgg.get_submodule(place).register_forward_hook(lambda *given: kept.update(map=given[2].clone()))
    pictures = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    statistics = NETWORKS["vgg16"]
    with torch.inference_mode(): vgg((pictures - torch.tensor(statistics.mean).view(3, 1, 1)) / torch.tensor(statistics.std).view(3, 1, 1))
    handle.remove()
    monkeypatch.setitem(NETWORKS, "vgg16", replace(statistics, build=lambda: vgg))   # the same weights, made once
    own = Backbone("vgg16", name, size=64)
    assert torch.equal(own(pictures), kept["map"])
    assert (own.grid is None) == name.startswith(("fc", "classifier")) and (kept["map"].min() < 0) == (name in ("features.28", "classifier.3"))


# Weights

@pytest.fixture
def toynet_file(tmp_path) -> Path:
    torch.manual_seed(0)
    save_file(ToyNet(5).state_dict(), tmp_path / "toynet.safetensors")
    return tmp_path / "toynet.safetensors"


def refused(weights, name="toynet", **given) -> str:
    with pytest.raises(BadInput) as caught: Backbone(name, weights=weights, **given)
    return str(caught.value)


def test_weights_from_a_file_are_those_of_the_file(toynet_file):
    one, other = Backbone("toynet", weights=toynet_file, words=5), Backbone("toynet", weights=str(toynet_file), words=5)
    assert one.fingerprint() == other.fingerprint()
    tensors = load_file(toynet_file)
    assert torch.equal(one.trunk.get_parameter("features.0.weight"), tensors["features.0.weight"])
    tensors["features.0.weight"][0, 0, 0, 0] += 1e-3
    save_file(tensors, toynet_file)
    assert Backbone("toynet", weights=toynet_file, words=5).fingerprint() != one.fingerprint()
    assert Backbone("toynet", "features.3", weights=toynet_file, words=5).fingerprint() != Backbone("toynet", "features.2", weights=toynet_file, words=5).fingerprint()


def test_half_precision_becomes_single(toynet_file):
    save_file({name: value.half() if value.is_floating_point() else value for name, value in load_file(toynet_file).items()}, toynet_file)
    network = Backbone("toynet", weights=toynet_file, words=5)
    assert {value.dtype for value in network.parameters()} == {torch.float32} and network(torch.rand(1, 3, 128, 128)).dtype == torch.float32


def test_missing_cut_off_and_pickled_files(toynet_file, tmp_path):
    assert "there are no such weights" in refused(tmp_path / "none.safetensors", words=5)
    whole = toynet_file.read_bytes()
    for part in (0, 4, 200, len(whole) - 1):
        toynet_file.write_bytes(whole[:part])
        assert "is not a whole safetensors file" in refused(toynet_file, words=5)
    for name in ("weights.pth", "weights.pt"):
        torch.save(ToyNet(5).state_dict(), tmp_path / name)
        message = refused(tmp_path / name, words=5)
        assert name in message and "save_file(torch.load(path, weights_only=True)" in message


def test_weights_of_other_sizes_and_networks(toynet_file, tmp_path):
    message = refused(toynet_file, words=6)
    assert "toynet.safetensors" in message and "classifier.weight is (5, 96) instead of (6, 96)" in message and "named like" not in message
    message = refused(toynet_file, "squeezenet1_1")
    assert "missing, such as" in message and "They are named like those of toynet" in message
    tensors = load_file(toynet_file)
    del tensors["features.0.weight"]
    tensors["head.weight"] = torch.zeros(1)
    save_file(tensors, toynet_file)
    message = refused(toynet_file, words=5)
    assert "1 missing, such as features.0.weight" in message and "1 not its own, such as head.weight" in message and "named like" not in message


def test_inception_takes_files_with_and_without_its_auxiliary_head(tmp_path):
    torch.manual_seed(0)
    tensors = torchvision.models.inception_v3(init_weights=False, aux_logits=True).state_dict()
    save_file(tensors, tmp_path / "with.safetensors")
    save_file({name: value for name, value in tensors.items() if not name.startswith("AuxLogits.")}, tmp_path / "without.safetensors")
    one, other = (Backbone("inception_v3", "maxpool1", weights=tmp_path / f"{name}.safetensors", size=75) for name in ("with", "without"))
    assert one.fingerprint() == other.fingerprint()
    picture = torch.rand(1, 3, 75, 75)
    network = torchvision.models.inception_v3(init_weights=False, transform_input=True).eval()     # torchvision's own way from ImageNet's statistics to (x - 0.5) / 0.5
    network.load_state_dict(tensors)
    usual = NETWORKS["vgg16"]
    x = network._transform_input((picture - torch.tensor(usual.mean).view(3, 1, 1)) / torch.tensor(usual.std).view(3, 1, 1))
    with torch.inference_mode(): expected = network.maxpool1(network.Conv2d_2b_3x3(network.Conv2d_2a_3x3(network.Conv2d_1a_3x3(x))))
    assert torch.allclose(one(picture), expected, atol=1e-5)


def test_without_a_network_imagenet_says_how_to_give_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    def offline(*args, **kwargs): raise URLError("no network")
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    assert "could not be fetched (URLError" in (message := refused("imagenet", "squeezenet1_1")) and "weights=path" in message


def test_no_code_in_downloaded_weights_is_run(monkeypatch, tmp_path):
    class Evil:
        def __reduce__(self): return Path.touch, (tmp_path / "was run",)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = Path(torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.url).name
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(Evil(), tmp_path / "hub/checkpoints" / name)
    assert "could not be fetched (UnpicklingError" in refused("imagenet", "squeezenet1_1") and not (tmp_path / "was run").exists()
    with pytest.raises(pickle.UnpicklingError): torch.load(tmp_path / "hub/checkpoints" / name, weights_only=True)
    torch.load(tmp_path / "hub/checkpoints" / name, weights_only=False)
    assert (tmp_path / "was run").exists(), "the file would have run code: the test can fail"


def test_unknown_layers_come_with_near_ones():
    with pytest.raises(BadInput, match=r"has no layer 'Mixed_7d'.*Mixed_7"): Backbone("inception_v3", "Mixed_7d")
    with pytest.raises(BadInput, match="there is no 'vgg'"): layers_of("vgg")
    with pytest.raises(BadInput, match="layer avgpool: AdaptiveAvgPool2d has no receptive field"): Backbone("resnet50", "avgpool", size=64)


# Real weights

@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2"])
def test_real_weights_see_dogs_in_photographs_of_dogs(shared_data, name):
    "On photographs whose five captions all say 'dog', a dog class comes first mostly: layer, normalisation and order of colours are right."
    photographs = shared_data / "flickr30k/flickr30k-images"
    said: dict[str, list[bool]] = {}
    for line in (shared_data / "flickr30k/results_20130124.token").read_text(encoding="utf-8").splitlines():
        picture, sentence = line.split("\t", 1)
        said.setdefault(picture.split("#")[0], []).append("dog" in sentence.lower().split())
    dogs = [picture for picture, each in sorted(said.items()) if len(each) == 5 and all(each) and (photographs / picture).exists()][:32]
    assert len(dogs) == 32
    pictures = torch.stack([pil_to_tensor(Image.open(photographs / picture).convert("RGB")).float() / 255 for picture in dogs])
    network = Backbone(name, "flatten" if name == "squeezenet1_1" else "classifier", shared_data / f"weights/{name}_imagenet_fp16.safetensors")
    def dog_comes_first(pictures):
        with torch.inference_mode(): best = network(pictures).argmax(1)
        return ((best >= 151) & (best <= 268)).float().mean().item()                   # ImageNet's dogs
    assert dog_comes_first(pictures) >= 0.6 > dog_comes_first(pictures / 255)          # pixels in another range are not taken for dogs


def test_real_features_are_never_negative_where_excitation_backprop_needs_it(shared_data):
    network = Backbone("squeezenet1_1", weights=shared_data / "weights/squeezenet1_1_imagenet_fp16.safetensors")
    assert network(torch.rand(1, 3, 224, 224)).min() >= 0 and network.grid.rows == 13


def test_real_weights_of_the_wrong_network_name_the_right_one(shared_data):
    message = refused(shared_data / "weights/mobilenet_v2_imagenet_fp16.safetensors", "resnet50")
    assert "They are named like those of mobilenet_v2" in message and message.count(".safetensors") == 1
