"""Measure the memory of each training at the papers' size: `python benchmarks/training_memory.py [--only NAME]`.

Nothing of the official data is needed. A store of the official number of items is made of one block of random features
that lies in its folder under every name (hard links): it is read like any other, and takes the space of one block.
Captions have the official number, too. Each training is a process of its own, which makes some steps through the
project's own training functions and says the most memory that it took beyond its imports; the weights, their gradients
and Adam's two moments are taken off: what remains are captions, what is read ahead, and the activations of a batch.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from PIL import Image

from cgsaliency.core.records import Record
from cgsaliency.data.text import Vocabulary
from cgsaliency.models.action import ToyVGG, train_frames, train_recogniser
from cgsaliency.models.captioning import captioning_loss, train_captioner
from cgsaliency.models.features import FeatureStore, StoredValues, write_block
from cgsaliency.models.fit import Recipe
from cgsaliency.models.lookers import ImageValues, Sights, train_looker
from cgsaliency.models.looking import Eyes
from cgsaliency.models.mean_pool import MeanPool
from cgsaliency.models.s2vt import S2VT
from cgsaliency.models.sequences import SequenceStore
from cgsaliency.models.soft_attention import SoftAttention, attention_loss
from measure import write_rows
from memory import highest_memory

ROOT = Path(__file__).resolve().parent.parent
FLICKR30K, COCO, CLIPS, FRAMES_OF_FILMS = 29_000, 113_287, 9_537, 200 * 24
WORDS, LENGTH, STEPS, LIMIT = 7_000, 20, 3, 6.0      # of a caption; steps of each training; GiB
VOCABULARY = Vocabulary.of([[f"w{k}" for k in range(WORDS)]])
GIB = 2.0**30


def linked_store(folder: Path, items: int, shape: tuple[int, ...], dtype: str = "float16") -> FeatureStore:
    "A store whose blocks are one file under many names."
    store = FeatureStore(folder, {"memory": list(shape)}, [str(k) for k in range(items)], shape, dtype=dtype)
    values = np.random.default_rng(0).integers(0, 3, (store.block, *shape)).astype(dtype)
    write_block(store.file(0), values)
    for k in range(1, -(-items // store.block)):
        if not store.file(k).exists():
            os.link(store.file(0), store.file(k))
    return store


def captions_of(items: int) -> torch.Tensor:
    "Five captions for each item, each with its end."
    captions = torch.randint(1, WORDS, (items, 5, LENGTH + 1))
    captions[..., -1] = 0
    return captions


def recipe(batch_size: int) -> Recipe:
    return Recipe(epochs=1, batch_size=batch_size, max_steps=STEPS)


def captioner(kind: type, sizes: dict, loss: Callable, maps: bool = False) -> Callable[[Path], torch.nn.Module]:
    "A training of a captioner on the descriptors of all training images of Flickr30k."

    def train(folder: Path) -> torch.nn.Module:
        store, captions = linked_store(folder, FLICKR30K, (64, 2048)), captions_of(FLICKR30K)
        more = (torch.rand(FLICKR30K, 5, LENGTH + 1, 64, dtype=torch.float16),) if maps else ()
        own = {"features": 2048, "max_words": LENGTH, **sizes}
        values = store.values()
        assert isinstance(values, StoredValues)
        return train_captioner(
            kind, folder / "run", VOCABULARY, own, values, captions, recipe(20), loss, more, progress=False
        )[0]

    return train


def images_of(folder: Path, items: int) -> list[Record]:
    "Records of images, all of which are one file."
    path = folder / "image.jpg"
    Image.effect_noise((640, 480), 60).convert("RGB").save(path, quality=80)
    return [Record(str(k), path, 640, 480) for k in range(items)]


def regions(kind: str, learns: bool) -> Callable[[Path], torch.nn.Module]:
    "A training of a captioner of regions on all training images of MSCOCO."

    def train(folder: Path) -> torch.nn.Module:
        settings = {"network": "vgg16", "kind": kind, "stride": 2}
        start = Eyes(**settings).network.state_dict()
        if learns:
            seen = ImageValues(images_of(folder, COCO), "vgg16")
        else:
            seen = linked_store(folder, COCO, (512, 14, 14)).values()
        ids = tuple(str(k) for k in range(COCO))
        captions = captions_of(COCO)
        sights, held = Sights(ids, seen), Sights(ids[:10], seen[:10])
        sizes = {"words": 512, "hidden": 512, "dropout": 0.5}
        return train_looker(
            folder / "run", VOCABULARY, settings, sizes, sights, captions, held, captions[:10], recipe(10), start, learns
        )[0]

    return train


def frames(folder: Path) -> torch.nn.Module:
    """A training on single frames, without the network's activations: a small network takes VGG-16's place.

    Its activations lie on the GPU; on a CPU a batch of 64 takes 6 GiB of them (`benchmarks/costs.py`)."""
    store = linked_store(folder, 8 * CLIPS + FRAMES_OF_FILMS, (3, 240, 320), "uint8")
    network = ToyVGG(102, width=16, units=16)
    train_frames(network, folder / "run", store.values(), torch.zeros(len(store), dtype=torch.long), 112,
                 recipe(64), progress=False)
    return network


def recogniser(folder: Path) -> torch.nn.Module:
    "A training on fc7 of all training clips."
    store = SequenceStore(folder / "features")
    store.write("0", torch.rand(186, 4096))
    for k in range(1, CLIPS):
        os.link(store.file("0"), store.file(str(k)))
    clips = store.finish([str(k) for k in range(CLIPS)], ["a"] * CLIPS, [25.0] * CLIPS)
    labels = torch.zeros(CLIPS, dtype=torch.long)
    sizes = {"features": 4096, "hidden": 256}
    return train_recogniser(folder / "run", ("a", "b"), sizes, clips.videos, labels, recipe(24), progress=False)[0]


S2VT_SIZES = {"embedding": 1300, "words": 300, "hidden": 1300}
SOFT_SIZES = {"words": 512, "hidden": 1300, "attending": 512}
TRAININGS: dict[str, Callable[[Path], torch.nn.Module]] = {
    "S2VT, Flickr30k": captioner(S2VT, S2VT_SIZES, captioning_loss),
    "soft attention, Flickr30k": captioner(SoftAttention, SOFT_SIZES, attention_loss),
    "supervised attention, Flickr30k": captioner(
        SoftAttention, SOFT_SIZES, lambda model, batch: attention_loss(model, batch, 1.0, 1.0), maps=True
    ),
    "mean pooling, Flickr30k": captioner(MeanPool, {"words": 500, "hidden": 1000}, captioning_loss),
    "areas of attention on a grid, MSCOCO": regions("grid", False),
    "areas of attention, transformers, MSCOCO": regions("transformers", False),
    "areas of attention, fine-tuned, MSCOCO": regions("grid", True),
    "frames of UCF101 and THUMOS14": frames,
    "recogniser, UCF101": recogniser,
}


def child(name: str) -> dict[str, float]:
    "Train in this process; GiB: the peak beyond the imports, and the model with gradients and moments."
    torch.set_num_threads(2)
    start = highest_memory()
    with tempfile.TemporaryDirectory() as folder:
        model = TRAININGS[name](Path(folder))
    learned = sum(own.numel() for own in model.parameters() if own.requires_grad)
    frozen = sum(own.numel() for own in model.parameters() if not own.requires_grad)
    return {"peak": (highest_memory() - start) / GIB, "model": 4 * (4 * learned + frozen) / GIB}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="trainings whose names contain this")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        print(json.dumps(child(chosen.child)))
        return
    rows = []
    for name in (name for name in TRAININGS if chosen.only in name):
        command = [sys.executable, __file__, "--child", name]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        rest = found["peak"] - found["model"]
        rows += [(f"{name}: peak", found["peak"], "GiB", "beyond the imports"),
                 (f"{name}: model, gradients and moments", found["model"], "GiB", ""),
                 (f"{name}: besides the model", rest, "GiB", f"at most {LIMIT:g} are promised")]
        print(name, {key: round(value, 2) for key, value in found.items()}, flush=True)
    write_rows(ROOT / "benchmarks/results/training_memory.csv", f"{platform.machine()} CPU, 2 threads", rows)


if __name__ == "__main__":
    main()
