"""Weights of backbones: files that fit, files that do not, and files with code."""

import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from cgsaliency.core.errors import InputError
from cgsaliency.features.backbone import BACKBONES, Backbone
from cgsaliency.features.toy_cnn import ToyNet


@pytest.fixture
def toynet_file(tmp_path) -> Path:
    torch.manual_seed(0)
    save_file(ToyNet(5).state_dict(), tmp_path / "toynet.safetensors")
    return tmp_path / "toynet.safetensors"


def backbone_error(weights, name="toynet", **arguments) -> str:
    with pytest.raises(InputError) as caught:
        Backbone(name, weights=weights, **arguments)
    return str(caught.value)


def test_weights_and_fingerprint_are_those_of_the_file(toynet_file):
    backbone, same = (
        Backbone("toynet", weights=toynet_file, num_labels=5),
        Backbone("toynet", weights=str(toynet_file), num_labels=5),
    )
    assert backbone.fingerprint() == same.fingerprint()
    tensors = load_file(toynet_file)
    assert torch.equal(backbone.body.get_parameter("features.0.weight"), tensors["features.0.weight"])
    tensors["features.0.weight"][0, 0, 0, 0] += 1e-3
    save_file(tensors, toynet_file)
    assert Backbone("toynet", weights=toynet_file, num_labels=5).fingerprint() != backbone.fingerprint()
    assert (
        Backbone("toynet", "features.3", weights=toynet_file, num_labels=5).fingerprint()
        != Backbone("toynet", "features.2", weights=toynet_file, num_labels=5).fingerprint()
    )


def test_half_precision_weights_become_float32(toynet_file):
    save_file(
        {name: value.half() if value.is_floating_point() else value for name, value in load_file(toynet_file).items()},
        toynet_file,
    )
    network = Backbone("toynet", weights=toynet_file, num_labels=5)
    assert {value.dtype for value in network.parameters()} == {torch.float32} and network(
        torch.rand(1, 3, 128, 128)
    ).dtype == torch.float32


def test_missing_truncated_and_pickled_files_are_reported(toynet_file, tmp_path):
    assert "there are no such weights" in backbone_error(tmp_path / "none.safetensors", num_labels=5)
    content = toynet_file.read_bytes()
    for length in (0, 4, 200, len(content) - 1):
        toynet_file.write_bytes(content[:length])
        assert "is not a complete safetensors file" in backbone_error(toynet_file, num_labels=5)
    for name in ("weights.pth", "weights.pt"):
        torch.save(ToyNet(5).state_dict(), tmp_path / name)
        message = backbone_error(tmp_path / name, num_labels=5)
        assert name in message and "save_file(torch.load(path, weights_only=True)" in message


def test_weights_of_other_sizes_and_networks_are_reported(toynet_file, tmp_path):
    message = backbone_error(toynet_file, num_labels=6)
    assert (
        "toynet.safetensors" in message
        and "classifier.weight is (5, 96) instead of (6, 96)" in message
        and "named like" not in message
    )
    message = backbone_error(toynet_file, "squeezenet1_1")
    assert "missing, such as" in message and "They are named like those of toynet" in message
    tensors = load_file(toynet_file)
    del tensors["features.0.weight"]
    tensors["head.weight"] = torch.zeros(1)
    save_file(tensors, toynet_file)
    message = backbone_error(toynet_file, num_labels=5)
    assert (
        "1 missing, such as features.0.weight" in message
        and "1 unexpected, such as head.weight" in message
        and "named like" not in message
    )


@pytest.mark.slow
def test_inception_accepts_files_with_and_without_its_auxiliary_head(tmp_path):
    torch.manual_seed(0)
    tensors = torchvision.models.inception_v3(init_weights=False, aux_logits=True).state_dict()
    save_file(tensors, tmp_path / "with.safetensors")
    save_file(
        {name: value for name, value in tensors.items() if not name.startswith("AuxLogits.")},
        tmp_path / "without.safetensors",
    )
    with_head, without_head = (
        Backbone("inception_v3", "maxpool1", weights=tmp_path / f"{name}.safetensors", size=75)
        for name in ("with", "without")
    )
    assert with_head.fingerprint() == without_head.fingerprint()
    image = torch.rand(1, 3, 75, 75)
    # torchvision's transform from ImageNet's statistics to (x - 0.5) / 0.5
    network = torchvision.models.inception_v3(init_weights=False, transform_input=True).eval()
    network.load_state_dict(tensors)
    imagenet = BACKBONES["vgg16"]
    x = network._transform_input(
        (image - torch.tensor(imagenet.mean).view(3, 1, 1)) / torch.tensor(imagenet.std).view(3, 1, 1)
    )
    with torch.inference_mode():
        expected = network.maxpool1(network.Conv2d_2b_3x3(network.Conv2d_2a_3x3(network.Conv2d_1a_3x3(x))))
    assert torch.allclose(with_head(image), expected, atol=1e-5)


def test_failed_downloads_suggest_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    assert (
        "could not be fetched (URLError" in (message := backbone_error("imagenet", "squeezenet1_1"))
        and "weights=path" in message
    )


def test_code_in_downloaded_weights_is_not_run(monkeypatch, tmp_path):
    class Malicious:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = Path(torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.url).name
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(Malicious(), tmp_path / "hub/checkpoints" / name)
    assert (
        "could not be fetched (UnpicklingError" in backbone_error("imagenet", "squeezenet1_1")
        and not (tmp_path / "executed").exists()
    )
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "hub/checkpoints" / name, weights_only=True)
    torch.load(tmp_path / "hub/checkpoints" / name, weights_only=False)
    assert (tmp_path / "executed").exists(), "the file contains code that can run"


def test_errors_about_real_weights_name_the_right_network(shared_data):
    message = backbone_error(shared_data / "weights/mobilenet_v2_imagenet_fp16.safetensors", "resnet50")
    assert "They are named like those of mobilenet_v2" in message and message.count(".safetensors") == 1
