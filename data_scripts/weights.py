"""Networks trained on ImageNet, as torchvision publishes them: Inception v3 and VGG-16. `python data_scripts/weights.py DATA [--check]`."""
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torchvision.models import Inception_V3_Weights, VGG16_Weights

from cgsaliency.core.artefacts import written_whole
from cgsaliency.core.errors import BadInput
from cgsaliency.models.backbone import NETWORKS
from cgsaliency.models.weights import load_weights, read_weights
from fetching import DataSet, Source, main

BY_HAND = """Everything can be downloaded (640 MB). The files are pickles, which are read as weights alone and kept as   DATA/weights/<network>_imagenet.safetensors   with the same numbers.
cgvs' authors took Inception v3 from TensorFlow (inception-2015-12-05), which is another training of it; torchvision's is what this project reads."""
PUBLISHED = {"inception_v3": Inception_V3_Weights.IMAGENET1K_V1.url, "vgg16": VGG16_Weights.IMAGENET1K_V1.url}
FILES = {network: url.rpartition("/")[2] for network, url in PUBLISHED.items()}     # a file's name ends in the beginning of its SHA-256


def kept(folder: Path, network: str) -> Path: return folder / f"{network}_imagenet.safetensors"


def convert(folder: Path, files: dict[str, str] = FILES) -> None:
    "The downloads as safetensors."
    for network, file in files.items():
        if kept(folder, network).is_file() or not (folder / file).is_file(): continue
        try: weights = torch.load(folder / file, map_location="cpu", weights_only=True)
        except Exception as error: raise BadInput(folder / file, f"holds no weights that can be read ({type(error).__name__})", "Delete it and run this again") from None
        with written_whole(kept(folder, network)) as part: save_file({name: value.contiguous() for name, value in weights.items()}, part)


def check(folder: Path, networks: dict[str, str] = FILES):
    problems = []
    for network in networks:
        known = NETWORKS[network]
        with torch.device("meta"): model = known.build()
        try: load_weights(model.to_empty(device="cpu"), read_weights(kept(folder, network)), known.ignored, where=kept(folder, network))
        except BadInput as error: problems.append(str(error))
    return problems


WEIGHTS = DataSet("weights of ImageNet", "weights", BY_HAND, check, tuple(
    Source(PUBLISHED[network], file, f"sha256:{file.removesuffix('.pth').rpartition('-')[2]}", part=network) for network, file in FILES.items()), settle=convert)
if __name__ == "__main__": sys.exit(main(WEIGHTS))
