"""Measure the memory of each training at the papers' size: `python benchmarks/training_memory.py [--only NAME]`.

No official data are needed. A feature cache of the official number of items consists of one chunk of random features
with a hard link for each chunk: it is read like any other, and takes the space of one chunk. The number of captions is
the official one, too. Each training runs some steps in a separate process with the project's training functions, and
reports its peak memory beyond the imports. Without the weights, their gradients and Adam's two moments, the remaining
memory holds captions, prefetched items, and the activations of a batch.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cgsaliency.core.records import Sample
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.features.cache import CachedFeatures, FeatureCache, write_chunk
from cgsaliency.features.region_encoder import RegionEncoder
from cgsaliency.features.region_inputs import LazyImages, RegionInputs
from cgsaliency.features.toy_cnn import ToyVGG
from cgsaliency.features.video_features import VideoFeatureCache
from cgsaliency.models.base import captioning_loss
from cgsaliency.models.mean_pool import MeanPoolCaptioner
from cgsaliency.models.s2vt import S2VT
from cgsaliency.models.soft_attention import SoftAttention, attention_loss
from cgsaliency.train.action import train_action_lstm, train_frame_cnn
from cgsaliency.train.areas import RegionDataset, train_region_captioner
from cgsaliency.train.captioner import train_captioner
from cgsaliency.train.loop import TrainConfig
from measure import write_rows
from memory import highest_memory

ROOT = Path(__file__).resolve().parent.parent
FLICKR30K, COCO, CLIPS, VIDEO_FRAMES = 29_000, 113_287, 9_537, 200 * 24
WORDS, LENGTH, STEPS, LIMIT = 7_000, 20, 3, 6.0  # of a caption; steps of each training; GiB
VOCABULARY = Vocabulary.from_captions([[f"w{k}" for k in range(WORDS)]])
GIB = 2.0**30


def linked_cache(folder: Path, items: int, shape: tuple[int, ...], dtype: str = "float16") -> FeatureCache:
    "Return a cache whose chunks are hard links to one file."
    cache = FeatureCache(folder, {"memory": list(shape)}, [str(k) for k in range(items)], shape, dtype=dtype)
    values = np.random.default_rng(0).integers(0, 3, (cache.chunk_size, *shape)).astype(dtype)
    write_chunk(cache.chunk_path(0), values)
    for k in range(1, -(-items // cache.chunk_size)):
        if not cache.chunk_path(k).exists():
            os.link(cache.chunk_path(0), cache.chunk_path(k))
    return cache


def random_captions(items: int) -> torch.Tensor:
    "Return five captions for each item, each with its end."
    captions = torch.randint(1, WORDS, (items, 5, LENGTH + 1))
    captions[..., -1] = 0
    return captions


def make_config(batch_size: int) -> TrainConfig:
    return TrainConfig(epochs=1, batch_size=batch_size, max_steps=STEPS)


def captioner(kind: type, sizes: dict, loss: Callable, maps: bool = False) -> Callable[[Path], torch.nn.Module]:
    "Return the training of a captioner on the descriptors of all training images of Flickr30k."

    def train(folder: Path) -> torch.nn.Module:
        cache, captions = linked_cache(folder, FLICKR30K, (64, 2048)), random_captions(FLICKR30K)
        maps_input = (torch.rand(FLICKR30K, 5, LENGTH + 1, 64, dtype=torch.float16),) if maps else ()
        model_kwargs = {"feature_dim": 2048, "max_words": LENGTH, **sizes}
        values = cache.features()
        assert isinstance(values, CachedFeatures)
        return train_captioner(
            kind,
            folder / "run",
            VOCABULARY,
            model_kwargs,
            values,
            captions,
            make_config(20),
            loss,
            maps_input,
            progress=False,
        )[0]

    return train


def images_of(folder: Path, items: int) -> list[Sample]:
    "Return samples of images, all of which are one file."
    path = folder / "image.jpg"
    Image.effect_noise((640, 480), 60).convert("RGB").save(path, quality=80)
    return [Sample(str(k), path, 640, 480) for k in range(items)]


def regions(region_type: str, finetune_cnn: bool) -> Callable[[Path], torch.nn.Module]:
    "Return the training of a region captioner on all training images of MSCOCO."

    def train(folder: Path) -> torch.nn.Module:
        settings = {"network": "vgg16", "region_type": region_type, "stride": 2}
        init_weights = RegionEncoder(**settings).network.state_dict()
        if finetune_cnn:
            inputs = LazyImages(images_of(folder, COCO), "vgg16")
        else:
            inputs = linked_cache(folder, COCO, (512, 14, 14)).features()
        ids = tuple(str(k) for k in range(COCO))
        captions = random_captions(COCO)
        train_data = RegionDataset(RegionInputs(ids, inputs), captions)
        val_data = RegionDataset(RegionInputs(ids[:10], inputs[:10]), captions[:10])
        sizes = {"word_dim": 512, "hidden_dim": 512, "dropout": 0.5}
        return train_region_captioner(
            folder / "run",
            VOCABULARY,
            settings,
            sizes,
            train_data,
            val_data,
            make_config(10),
            init_weights,
            finetune_cnn,
        )[0]

    return train


def frames(folder: Path) -> torch.nn.Module:
    """Train on single frames, with a small network instead of VGG-16 and therefore without its activations.

    VGG-16's activations are on the GPU; on a CPU a batch of 64 takes 6 GiB of them (`benchmarks/costs.py`)."""
    cache = linked_cache(folder, 8 * CLIPS + VIDEO_FRAMES, (3, 240, 320), "uint8")
    network = ToyVGG(102, channels=16, hidden_dim=16)
    train_frame_cnn(
        network,
        folder / "run",
        cache.features(),
        torch.zeros(len(cache), dtype=torch.long),
        112,
        make_config(64),
        progress=False,
    )
    return network


def classifier(folder: Path) -> torch.nn.Module:
    "Train an LSTM on fc7 of all training clips."
    cache = VideoFeatureCache(folder / "features")
    cache.write_features("0", torch.rand(186, 4096))
    for k in range(1, CLIPS):
        os.link(cache.video_path("0"), cache.video_path(str(k)))
    clips = cache.finish([str(k) for k in range(CLIPS)], ["a"] * CLIPS, [25.0] * CLIPS)
    labels = torch.zeros(CLIPS, dtype=torch.long)
    sizes = {"feature_dim": 4096, "hidden_dim": 256}
    return train_action_lstm(folder / "run", ("a", "b"), sizes, clips.videos, labels, make_config(24), progress=False)[
        0
    ]


S2VT_SIZES = {"embed_dim": 1300, "word_dim": 300, "hidden_dim": 1300}
SOFT_SIZES = {"word_dim": 512, "hidden_dim": 1300, "attention_dim": 512}
TRAININGS: dict[str, Callable[[Path], torch.nn.Module]] = {
    "S2VT, Flickr30k": captioner(S2VT, S2VT_SIZES, captioning_loss),
    "soft attention, Flickr30k": captioner(SoftAttention, SOFT_SIZES, attention_loss),
    "supervised attention, Flickr30k": captioner(
        SoftAttention, SOFT_SIZES, lambda model, batch: attention_loss(model, batch, 1.0, 1.0), maps=True
    ),
    "mean pooling, Flickr30k": captioner(MeanPoolCaptioner, {"word_dim": 500, "hidden_dim": 1000}, captioning_loss),
    "areas of attention on a grid, MSCOCO": regions("grid", False),
    "areas of attention, transformers, MSCOCO": regions("spatial_transformers", False),
    "areas of attention, fine-tuned, MSCOCO": regions("grid", True),
    "frames of UCF101 and THUMOS14": frames,
    "classifier, UCF101": classifier,
}


def child(name: str) -> dict[str, float]:
    "Train in this process; return the GiB of memory at the peak, beyond the imports, and of the model being trained."
    torch.set_num_threads(2)
    start = highest_memory()
    with tempfile.TemporaryDirectory() as folder:
        model = TRAININGS[name](Path(folder))
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    return {"peak": (highest_memory() - start) / GIB, "model": 4 * (4 * trainable + frozen) / GIB}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="trainings whose names contain this")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child)))
        return
    rows = []
    for name in (name for name in TRAININGS if args.only in name):
        command = [sys.executable, __file__, "--child", name]
        memory = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        remaining = memory["peak"] - memory["model"]
        rows += [
            (f"{name}: peak", memory["peak"], "GiB", "beyond the imports"),
            (f"{name}: model, gradients and moments", memory["model"], "GiB", ""),
            (f"{name}: besides the model", remaining, "GiB", f"at most {LIMIT:g} are promised"),
        ]
        print(name, {key: round(value, 2) for key, value in memory.items()}, flush=True)
    write_rows(ROOT / "benchmarks/results/training_memory.csv", f"{platform.machine()} CPU, 2 threads", rows)


if __name__ == "__main__":
    main()
