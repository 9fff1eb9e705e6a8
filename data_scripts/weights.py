"""Weights of networks trained on ImageNet, as torchvision publishes them: InceptionV3 and VGG-16.

`python data_scripts/weights.py DATA [--check]`."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torchvision.models import get_model_weights

from cgsaliency.core.errors import InputError
from cgsaliency.core.io import atomic_write
from cgsaliency.features.backbone import BACKBONES, PAPER_BACKBONES, imagenet_path
from cgsaliency.features.weights import load_weights, read_weights
from fetching import DataSet, Source, main

BY_HAND = """Everything can be downloaded (640 MB). The files are pickles; they are read with weights_only and written
to DATA/weights/<network>_imagenet.safetensors with the same numbers. cgvs' authors used InceptionV3 of TensorFlow
(inception-2015-12-05), which is another training; this project uses torchvision's."""
PUBLISHED = {network: get_model_weights(network).DEFAULT.url for network in PAPER_BACKBONES}
# a file's name ends with the beginning of its SHA-256
FILES = {network: url.rpartition("/")[2] for network, url in PUBLISHED.items()}


def convert(folder: Path, files: dict[str, str] = FILES) -> None:
    "Convert the downloaded files to safetensors."
    for network, file in files.items():
        target = imagenet_path(folder, network)
        if target.is_file() or not (folder / file).is_file():
            continue
        try:
            weights = torch.load(folder / file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise InputError(
                folder / file,
                f"holds no weights that can be read ({type(error).__name__})",
                "Delete it and run this again",
            ) from None
        with atomic_write(target) as part:
            save_file({name: value.contiguous() for name, value in weights.items()}, part)


def check(folder: Path, networks: dict[str, str] = FILES):
    problems = []
    for network in networks:
        spec, path = BACKBONES[network], imagenet_path(folder, network)
        with torch.device("meta"):
            model = spec.build().to_empty(device="cpu")
        try:
            load_weights(model, read_weights(path), spec.ignored_prefixes, location=path)
        except InputError as error:
            problems.append(str(error))
    return problems


WEIGHTS = DataSet(
    "weights of ImageNet",
    "weights",
    BY_HAND,
    check,
    tuple(
        Source(PUBLISHED[network], file, f"sha256:{file.removesuffix('.pth').rpartition('-')[2]}", part=network)
        for network, file in FILES.items()
    ),
    convert=convert,
)
if __name__ == "__main__":
    sys.exit(main(WEIGHTS))
