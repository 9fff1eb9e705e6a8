"""Every function that loads a model puts it on the best device, in evaluation mode, wherever its file came from."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import cgsaliency.features
import cgsaliency.models
import cgsaliency.train
from cgsaliency.core.io import write_json
from cgsaliency.features.extractor import load_extractor
from cgsaliency.features.toy_cnn import ToyVGG
from cgsaliency.models.base import load_captioner
from cgsaliency.models.cnn_lstm import ActionLSTM, load_action_lstm, load_frame_cnn
from cgsaliency.models.huggingface import load_hub
from cgsaliency.models.registry import CHECKPOINTS, load_pipeline
from stand_in_device import StandIn

pytestmark = pytest.mark.filterwarnings("ignore")


def captioner_loader(run: Path, folder: Path) -> Callable[[], Iterable[nn.Module]]:
    checkpoint = CHECKPOINTS["s2vt"]
    return lambda: [load_captioner(checkpoint.model_class, run / checkpoint.folder)]


def extractor_loader(run: Path, folder: Path) -> Callable[[], Iterable[nn.Module]]:
    return lambda: [load_extractor(run / "cgvs/extractor.json").backbone]


def action_lstm_loader(run: Path, folder: Path) -> Callable[[], Iterable[nn.Module]]:
    model_kwargs = {"classes": ["golf", "tennis"], "feature_dim": 4, "hidden_dim": 3}
    write_json(folder / "action_lstm.json", model_kwargs)
    save_file(ActionLSTM(**model_kwargs).state_dict(), folder / "best.safetensors")
    return lambda: [load_action_lstm(folder)]


def frame_cnn_loader(run: Path, folder: Path) -> Callable[[], Iterable[nn.Module]]:
    model_kwargs = {"channels": 8, "hidden_dim": 4}
    save_file(ToyVGG(2, **model_kwargs).state_dict(), folder / "weights.safetensors")
    config = {"network": "toyvgg", "model_kwargs": model_kwargs, "classes": ["golf", "tennis"], "size": 112}
    write_json(
        folder / "network.json", config | {"mean": [0.5] * 3, "std": [0.5] * 3, "weights": "weights.safetensors"}
    )
    return lambda: [load_frame_cnn(folder / "network.json").network]


def pipeline_loader(run: Path, folder: Path) -> Callable[[], Iterable[nn.Module]]:
    def load() -> Iterable[nn.Module]:
        pipeline = load_pipeline("soft-attention-video", run)
        return pipeline, pipeline.captioner, pipeline.extractor.backbone

    return load


def hub_loader(run: Path, folder: Path) -> Callable[[], Iterable[nn.Module]]:
    pytest.importorskip("transformers", reason="transformers is not installed: it is the extra [hub]")
    import hub_models

    captioner = hub_models.FAMILIES["vit-gpt2"]()
    for component in (captioner.model, captioner.processor, captioner.tokenizer):
        component.save_pretrained(folder)
    return lambda: [load_hub(str(folder), offline=True)]


LOADERS = {
    load_captioner: captioner_loader,
    load_extractor: extractor_loader,
    load_action_lstm: action_lstm_loader,
    load_frame_cnn: frame_cnn_loader,
    load_pipeline: pipeline_loader,
    load_hub: hub_loader,
}
# they load data, or weights into an existing model
OTHER_LOADERS = {
    "load_weights",
    "load_matching_weights",
    "load_comparison",
    "load_checkpoint",
    "load_trained",
    "load_video_features",
    "load_frame_features",
    "load_frames",
}


@pytest.mark.parametrize("loader", LOADERS, ids=lambda loader: loader.__name__)
def test_models_are_loaded_onto_the_best_device_in_eval_mode(loader, tiny_run, tmp_path, monkeypatch):
    load = LOADERS[loader](tiny_run, tmp_path)
    monkeypatch.setenv("CGSALIENCY_DEVICE", "cuda")
    with StandIn() as device:
        for module in load():
            tensors = [*module.parameters(), *module.buffers()]
            assert tensors and all(tensor in device.labels for tensor in tensors) and not module.training
    monkeypatch.setenv("CGSALIENCY_DEVICE", "cpu")
    assert all(tensor.device == torch.device("cpu") for module in load() for tensor in module.parameters())


def test_every_function_that_loads_a_model_is_tested():
    names = set()
    for package in (cgsaliency.features, cgsaliency.models, cgsaliency.train):
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            functions = inspect.getmembers(module, inspect.isfunction)
            names |= {name for name, function in functions if function.__module__ == module.__name__}
    names = {name for name in names if name.startswith("load_")}
    assert names == {loader.__name__ for loader in LOADERS} | OTHER_LOADERS
