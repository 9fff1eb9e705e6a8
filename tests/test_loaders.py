"""What loads a model puts all of it on the best device, in evaluation mode, whatever device its file came from."""

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Callable, Iterable

import pytest
import torch
from safetensors.torch import save_file
from stand_in_device import StandIn
from torch import nn

import cgsaliency.models
from cgsaliency.core.artefacts import write_json
from cgsaliency.models.action import ActionRecogniser, ToyVGG, load_frames_network, load_recogniser
from cgsaliency.models.captioning import load_captioner
from cgsaliency.models.descriptors import load_describer
from cgsaliency.models.hub import load_hub
from cgsaliency.models.ready import TRAINED, load_ready

pytestmark = pytest.mark.filterwarnings("ignore")


def a_captioner(run: Path, folder: Path) -> Callable[[], Iterable[nn.Module]]:
    own = TRAINED["s2vt"]
    return lambda: [load_captioner(own.kind, run / own.folder)]


def a_describer(run: Path, folder: Path) -> Callable[[], Iterable[nn.Module]]:
    return lambda: [load_describer(run / "cgvs/describer.json").backbone]


def a_recogniser(run: Path, folder: Path) -> Callable[[], Iterable[nn.Module]]:
    sizes = {"classes": ["golf", "tennis"], "features": 4, "hidden": 3}
    write_json(folder / "recogniser.json", sizes)
    save_file(ActionRecogniser(**sizes).state_dict(), folder / "best.safetensors")
    return lambda: [load_recogniser(folder)]


def a_network_of_frames(run: Path, folder: Path) -> Callable[[], Iterable[nn.Module]]:
    sizes = {"width": 8, "units": 4}
    save_file(ToyVGG(2, **sizes).state_dict(), folder / "weights.safetensors")
    about = {"network": "toyvgg", "sizes": sizes, "classes": ["golf", "tennis"], "size": 112}
    write_json(folder / "network.json", about | {"mean": [0.5] * 3, "std": [0.5] * 3, "weights": "weights.safetensors"})
    return lambda: [load_frames_network(folder / "network.json").network]


def a_trained_captioner_by_name(run: Path, folder: Path) -> Callable[[], Iterable[nn.Module]]:
    def load() -> Iterable[nn.Module]:
        ready = load_ready("soft-attention-films", run)
        return ready, ready.captioner, ready.describer.backbone

    return load


def a_captioner_of_the_hub(run: Path, folder: Path) -> Callable[[], Iterable[nn.Module]]:
    test_hub = pytest.importorskip("test_hub", reason="transformers is not installed: it is the extra [hub]")
    captioner = test_hub.FAMILIES["vit-gpt2"]()
    for part in (captioner.model, captioner.processor, captioner.tokenizer):
        part.save_pretrained(folder)
    return lambda: [load_hub(str(folder), offline=True)]


LOADERS = {
    load_captioner: a_captioner,
    load_describer: a_describer,
    load_recogniser: a_recogniser,
    load_frames_network: a_network_of_frames,
    load_ready: a_trained_captioner_by_name,
    load_hub: a_captioner_of_the_hub,
}
OF_MODELS_GIVEN = {"load_weights", "load_checkpoint", "load_trained", "load_sequences"}  # load into what is given, or data


@pytest.mark.parametrize("loader", LOADERS, ids=lambda loader: loader.__name__)
def test_a_model_is_loaded_onto_the_best_device(loader, tiny_run, tmp_path, monkeypatch):
    load = LOADERS[loader](tiny_run, tmp_path)
    monkeypatch.setenv("CGSALIENCY_DEVICE", "cuda")
    with StandIn() as device:
        for module in load():
            tensors = [*module.parameters(), *module.buffers()]
            assert tensors and all(one in device.labels for one in tensors) and not module.training
    monkeypatch.setenv("CGSALIENCY_DEVICE", "cpu")
    assert all(one.device == torch.device("cpu") for module in load() for one in module.parameters())


def test_every_loader_of_models_is_tried():
    found = set()
    for info in pkgutil.iter_modules(cgsaliency.models.__path__):
        module = importlib.import_module(f"cgsaliency.models.{info.name}")
        own = [one for _, one in inspect.getmembers(module, inspect.isfunction) if one.__module__ == module.__name__]
        found |= {one.__name__ for one in own if one.__name__.startswith("load_")}
    assert found == {loader.__name__ for loader in LOADERS} | OF_MODELS_GIVEN
