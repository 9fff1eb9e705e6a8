"""One unit of each long job of scale `paper`, ready to run: a training step, the features of an image, the explanation
of a sentence.

`costs.py` counts what a unit takes on this machine, `gpu.py` measures it on a GPU. Sizes are read from the settings
of the scale, so that both follow them. Data are random: the numbers that come out mean nothing, and captions never
end before the longest that is allowed, so that decoding takes as long as it can.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable

import torch
import torch.nn.functional as F

from torch import Tensor, nn

from cgsaliency.core.contracts import Descriptors
from cgsaliency.core.geometry import Grid, View
from cgsaliency.core.regions import Regions
from cgsaliency.core.run import device_of, mixed_precision
from cgsaliency.core.scales import load_scale
from cgsaliency.data.text import Vocabulary
from cgsaliency.explain.attention import area_attention, attention
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.explain.excitation import by_excitation, excitation
from cgsaliency.explain.frames import bp_r, eb_r, in_frames
from cgsaliency.explain.gradient import by_gradients, gradient
from cgsaliency.explain.recurrent import evidence_in_time
from cgsaliency.explain.word_gradient import integrated_gradients, word_gradient
from cgsaliency.explain.words import eb_r_words
from cgsaliency.models.action import NETWORKS as FRAME_NETWORKS
from cgsaliency.models.action import SOURCE, ActionRecogniser, features_of
from cgsaliency.models.areas import About
from cgsaliency.models.backbone import Backbone
from cgsaliency.models.captioning import captioning_loss
from cgsaliency.models.decode import beam_search
from cgsaliency.models.looking import CUTS, Looker, looking_loss
from cgsaliency.models.mean_pool import MeanPool
from cgsaliency.models.s2vt import S2VT
from cgsaliency.models.soft_attention import SoftAttention, attention_loss

ROOT = Path(__file__).resolve().parent.parent
TRAINING, FEATURES, DECODING, EXPLAINING = "training", "features", "decoding", "explaining"


# Sizes


@dataclass(frozen=True)
class Sizes:
    "The sizes of all units."

    settings: dict[str, dict]  # of a scale, by notebook
    vocabulary: int = 7000  # words of Flickr30k's captions
    coco_vocabulary: int = 6324  # words of MSCOCO's captions that are said ten times or more
    length: int = 20  # words of a training caption
    explained: int = 12  # words of a caption that is explained
    cells: int = 8  # rows, and columns, of descriptors
    features: int = 2048  # D, of a descriptor
    backbone: str = "inception_v3"
    frame_network: str = "vgg16"
    fc7: int = 4096  # D, of a frame
    classes: int = 101
    images: int = 64  # in one pass of feature extraction
    frames: int = 128  # of a clip that is explained
    proposals: int = 50  # boxes of an image


def paper_settings() -> dict[str, dict]:
    "Return the settings of scale `paper`, by notebook."
    return load_scale(ROOT / "nbs/papers/scales/paper.yaml")


SMALLEST = {
    "words": 8,
    "hidden": 8,
    "embedding": 8,
    "attending": 8,
    "batch_size": 2,
    "captions": 2,
    "frames": 4,
    "max_words": 5,
    "steps": 2,
    "length": 4,
    "network": "toyvgg",
}


def smallest(settings: Any, name: str = "") -> Any:
    "Return the settings with the smallest sizes of all models and batches."
    if isinstance(settings, dict):
        return {key: smallest(value, key) for key, value in settings.items()}
    return SMALLEST.get(name, settings) if settings else settings


def paper_sizes(**other: int) -> Sizes:
    "Return the sizes of scale `paper`; some may be chosen otherwise."
    return Sizes(paper_settings(), **other)


def smallest_sizes() -> Sizes:
    "Return sizes with which every unit takes a fraction of a second on a CPU."
    return Sizes(
        smallest(paper_settings()),
        vocabulary=12,
        coco_vocabulary=12,
        length=4,
        explained=3,
        cells=2,
        features=96,
        backbone="toynet",
        frame_network="toyvgg",
        fc7=128,
        classes=5,
        images=2,
        frames=4,
        proposals=3,
    )


# Units


@dataclass(frozen=True)
class Unit:
    "What is run once, and what it stands for."

    kind: str  # of the four above
    make: Callable[
        [torch.device], Callable[[], object]
    ]  # from a device to the call that is measured; its model and data are made before
    per_call: int = 1  # units in one call
    against: str = ""  # the unit that it is set beside, of which it is a multiple


def training_step(
    model: nn.Module,  # on its device
    loss: Callable[[nn.Module, Any], Tensor],
    batch: Any,  # on the same device
) -> Callable[[], Tensor]:
    """Return a call that trains the model by one step of Adam, in the precision that was chosen, and returns the
    loss; its attribute `parameters` says how many are trained."""
    device = device_of(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, 1e-4)
    model.train()

    def step() -> Tensor:
        optimizer.zero_grad()
        with mixed_precision(device):
            value = loss(model, batch)
        value.backward()
        optimizer.step()
        return value.detach()

    step.parameters = sum(parameter.numel() for parameter in trained)
    return step


def vocabulary_of(words: int) -> Vocabulary:
    "Return a vocabulary of that many words."
    return Vocabulary.of([[f"w{k}" for k in range(words)]])


def random_captions(items: int, captions: int, length: int, words: int, device: torch.device) -> Tensor:
    "Return random captions, items × captions × length."
    return torch.randint(1, words, (items, captions, length), device=device)


def captioner_of(sizes: Sizes, name: str) -> Callable[[], nn.Module]:
    "Return what makes the captioner of that name: 'S2VT', 'soft attention' or 'mean pooling'."
    settings, vocabulary = sizes.settings, vocabulary_of(sizes.vocabulary)
    kind, own = {
        "S2VT": (S2VT, settings["cgvs/captioner"]["sizes"]),
        "soft attention": (SoftAttention, settings["cgvs/crops"]["soft"]),
        "mean pooling": (MeanPool, settings["ebr/captioner"]["sizes"]),
    }[name]
    max_words = settings["cgvs/captioner"]["sizes"]["max_words"]
    return partial(kind, vocabulary, **{"features": sizes.features, **own, "max_words": max_words})


def placed(make: Callable[[], nn.Module], device: torch.device) -> nn.Module:
    "Return the model, made on the device, at rest."
    torch.manual_seed(0)
    with device:
        model = make()
    return model.to(device).eval()


def caption_training(
    sizes: Sizes,
    make: Callable,
    section: str,
    descriptors: int,
    loss: Callable = captioning_loss,
    supervised: bool = False,
) -> Unit:
    "A training step of a captioner of descriptors, with as many items and captions as the notebook takes."
    chosen = sizes.settings[section.partition(" ")[0]]
    chosen = chosen[section.partition(" ")[2]] if " " in section else chosen
    items, captions = chosen["training"]["batch_size"], chosen.get("captions", 5)
    length = min(sizes.length, sizes.settings["cgvs/crops"]["max_words"])

    def work(device: torch.device) -> Callable[[], Tensor]:
        model = placed(make, device)
        values = torch.rand(items, descriptors, sizes.features, device=device)
        batch = values, random_captions(items, captions, length, sizes.vocabulary, device)
        maps = torch.rand(items, captions, length, descriptors, device=device)
        return training_step(model, loss, (*batch, maps) if supervised else batch)

    return Unit(TRAINING, work)


def caption_trainings(sizes: Sizes) -> dict[str, Unit]:
    "Training steps of the captioners of cgvs and ebr."
    crops, films, cells = sizes.settings["cgvs/crops"], sizes.settings["cgvs/films"], sizes.cells**2
    of_films = {
        name: partial(captioner_of(sizes, name), **films[key])
        for name, key in (("S2VT", "s2vt"), ("soft attention", "soft"))
    }
    soft = captioner_of(sizes, "soft attention")
    return {
        "training step, S2VT, images": caption_training(sizes, captioner_of(sizes, "S2VT"), "cgvs/crops", cells),
        "training step, soft attention, images": caption_training(
            sizes, soft, "cgvs/crops", cells, partial(attention_loss, doubly=crops["doubly"])
        ),
        "training step, supervised attention, images": caption_training(
            sizes,
            soft,
            "cgvs/crops",
            cells,
            partial(attention_loss, doubly=crops["doubly"], supervised=crops["supervised"]),
            True,
        ),
        "training step, S2VT, videos": caption_training(sizes, of_films["S2VT"], "cgvs/films", films["frames"]),
        "training step, soft attention, videos": caption_training(
            sizes,
            of_films["soft attention"],
            "cgvs/films",
            films["frames"],
            partial(attention_loss, doubly=films["doubly"]),
        ),
        "training step, mean pooling, images": caption_training(
            sizes, captioner_of(sizes, "mean pooling"), "ebr/captioner images", 1
        ),
        "training step, mean pooling, videos": caption_training(
            sizes, captioner_of(sizes, "mean pooling"), "ebr/captioner films", 1
        ),
    }


def frame_network(sizes: Sizes, device: torch.device) -> nn.Module:
    "The network of single frames, at rest."
    return placed(partial(FRAME_NETWORKS[sizes.frame_network][0], num_classes=sizes.classes), device).requires_grad_(
        False
    )


def side(sizes: Sizes) -> int:
    "Pixels of a side of its input."
    return CUTS[sizes.frame_network].size


def action_trainings(sizes: Sizes) -> dict[str, Unit]:
    "Training steps of the network of single frames and of the LSTM over their features."

    def frames(device: torch.device) -> Callable[[], Tensor]:
        items = sizes.settings["ebr/frames"]["training"]["batch_size"]
        images = torch.randn(items, 3, side(sizes), side(sizes), device=device).contiguous(
            memory_format=torch.channels_last
        )
        batch = images, torch.randint(sizes.classes, (items,), device=device)
        return training_step(
            frame_network(sizes, device).requires_grad_(True),
            lambda network, pair: F.cross_entropy(network(pair[0]), pair[1]),
            batch,
        )

    def clips(device: torch.device) -> Callable[[], Tensor]:
        chosen = sizes.settings["ebr/recogniser"]
        items, length = chosen["training"]["batch_size"], chosen["length"]
        batch = (
            torch.rand(items, length, sizes.fc7, device=device),
            torch.randint(sizes.classes, (items,), device=device),
        )
        model = placed(partial(recogniser_of, sizes), device)
        return training_step(
            model,
            lambda model, pair: F.cross_entropy(model.scores(pair[0]).flatten(0, 1), pair[1].repeat_interleave(length)),
            batch,
        )

    return {
        "training step, VGG-16 on frames": Unit(TRAINING, frames),
        "training step, LSTM on frames": Unit(TRAINING, clips),
    }


def recogniser_of(sizes: Sizes) -> ActionRecogniser:
    "The LSTM over the features of frames."
    return ActionRecogniser(
        tuple(f"c{k}" for k in range(sizes.classes)), sizes.fc7, **sizes.settings["ebr/recogniser"]["sizes"]
    )


# Areas of attention

AREAS = ("aoa/captioners", "aoa/kinds", "aoa/numbers", "aoa/flickr30k", "aoa/finetuned")


def area_models(settings: dict[str, dict]) -> dict[str, tuple[str, dict]]:
    "Return notebook and settings of each model of areas of attention, by 'notebook/model'."
    found = {}
    for section in AREAS:
        models = settings[section].get("models") or {"transformers": {"eyes": settings[section]["eyes"]}}
        found |= {f"{section.removeprefix('aoa/')}/{name}": (section, own) for name, own in models.items()}
    return found


def looker_of(sizes: Sizes, section: str, own: dict) -> Looker:
    "The captioner with its network."
    chosen, words = sizes.settings[section], sizes.vocabulary if section == "aoa/flickr30k" else sizes.coco_vocabulary
    return Looker(
        vocabulary_of(words),
        {"network": sizes.frame_network, **own["eyes"]},
        chosen["max_words"],
        **{**chosen["sizes"], **own.get("sizes", {})},
    )


def seen(sizes: Sizes, own: dict, items: int, device: torch.device, images: bool = False) -> tuple[Tensor, ...]:
    "What `begin` of the captioner takes: images or γ, and boxes where it looks at proposals."
    cut = CUTS[sizes.frame_network]
    with torch.device("meta"):
        gamma = cut.build().features[: cut.gamma](torch.empty(1, 3, cut.size, cut.size)).shape[1:]
    values = torch.rand(items, *((3, cut.size, cut.size) if images else gamma), device=device)
    if own["eyes"]["kind"] != "proposals":
        return (values,)
    corner = torch.rand(items, sizes.proposals, 2, device=device) * cut.size / 2
    return values, torch.cat([corner, corner + cut.size / 4], -1), torch.ones(items, sizes.proposals, device=device)


def area_training(sizes: Sizes, section: str, own: dict) -> Unit:
    "A training step of a captioner of regions; in aoa/finetuned the network learns, too."
    chosen, learns = sizes.settings[section], section == "aoa/finetuned"

    def work(device: torch.device) -> Callable[[], Tensor]:
        items = chosen["training"]["batch_size"]
        model = placed(partial(looker_of, sizes, section, own), device)
        model.eyes.network.requires_grad_(learns)
        values, *more = seen(sizes, own, items, device, images=learns)
        captions = random_captions(
            items, chosen["captions"], min(sizes.length, chosen["max_words"] + 1), len(model.vocabulary), device
        )
        return training_step(model, looking_loss, (values, captions, *more))

    return Unit(TRAINING, work)


def area_trainings(sizes: Sizes) -> dict[str, Unit]:
    "A training step of each model of areas of attention."
    return {
        f"training step, areas of attention, {name}": area_training(sizes, section, own)
        for name, (section, own) in area_models(sizes.settings).items()
    }


# Features


def features(sizes: Sizes) -> dict[str, Unit]:
    "Features of images and frames by the frozen networks, from inputs on the CPU to values on the CPU."

    def inception(device: torch.device) -> Callable[[], Tensor]:
        backbone = placed(partial(Backbone, sizes.backbone), device)
        images = torch.rand(sizes.images, 3, backbone.size, backbone.size)

        def extract() -> Tensor:
            with torch.inference_mode(), mixed_precision(device):
                return backbone(images.to(device)).float().cpu()

        return extract

    def fc7(device: torch.device) -> Callable[[], object]:
        network, images = frame_network(sizes, device), torch.randn(sizes.images, 3, side(sizes), side(sizes))

        def extract() -> object:
            with mixed_precision(device):
                return features_of(network, images, together=sizes.images)

        return extract

    def gamma(device: torch.device) -> Callable[[], Tensor]:
        model = placed(partial(looker_of, sizes, *area_models(sizes.settings)["captioners/full"]), device)
        images = torch.rand(sizes.images, 3, side(sizes), side(sizes))

        def extract() -> Tensor:
            with torch.inference_mode(), mixed_precision(device):
                return model.eyes.lower(images.to(device)).float().cpu()

        return extract

    return {
        "Inception-v3 features of an image": Unit(FEATURES, inception, sizes.images),
        "VGG-16 fc7 of a frame": Unit(FEATURES, fc7, sizes.images),
        "VGG-16 conv5 map of an image": Unit(FEATURES, gamma, sizes.images),
    }


# Decoding


def decoding(sizes: Sizes) -> dict[str, Unit]:
    "Captions of images."

    def spoken(
        make: Callable[[], nn.Module], beam: int, items: int, given: Callable[[int, torch.device], tuple[Tensor, ...]]
    ) -> Unit:
        def work(device: torch.device) -> Callable[[], object]:
            model, values = placed(make, device), given(items, device)
            return lambda: beam_search(model, values, beam, model.max_words)

        return Unit(DECODING, work, items)

    def descriptors(items: int, device: torch.device) -> tuple[Tensor, ...]:
        return (torch.rand(items, sizes.cells**2, sizes.features, device=device),)

    names = ("S2VT", "soft attention", "mean pooling")
    found = {
        f"greedy caption, {name}": spoken(captioner_of(sizes, name), 1, sizes.images, descriptors) for name in names
    }
    found |= {
        f"caption by a beam of 5, {name}": spoken(captioner_of(sizes, name), 5, sizes.images, descriptors)
        for name in names[:2]
    }
    models = area_models(sizes.settings)
    for label, beam, name in (
        ("greedy caption", 1, "captioners/full"),
        ("greedy caption", 1, "kinds/transformers"),
        ("caption by a beam of 3", 3, "kinds/transformers"),
    ):
        section, own = models[name]
        found[f"{label}, areas of attention, {name}"] = spoken(
            partial(looker_of, sizes, section, own),
            beam,
            max(sizes.images * 3 // 4, 1),
            lambda items, device, own=own: seen(sizes, own, items, device),
        )
    return found


# Explaining


def picture_descriptors(sizes: Sizes, device: torch.device) -> Descriptors:
    "Random descriptors of an image."
    values = torch.rand(sizes.cells**2, sizes.features, device=device)
    return Descriptors(values, Grid.even(sizes.cells, sizes.cells, 299, 299), View.whole(500, 375, 299))


def sentence(sizes: Sizes) -> list[str]:
    "A sentence to explain."
    return [f"w{k}" for k in range(sizes.explained)]


def sentences_explained(sizes: Sizes) -> dict[str, Unit]:
    "Explanations of one sentence about one image, by explainer and captioner; each beside one pass over the sentence."

    def asked(name: str, explain: Callable) -> Callable[[torch.device], Callable[[], object]]:
        def work(device: torch.device) -> Callable[[], object]:
            model, given = placed(captioner_of(sizes, name), device), picture_descriptors(sizes, device)
            return lambda: explain(model, given, sentence(sizes), cut=True)

        return work

    def forward(model: nn.Module, given: Descriptors, tokens: list[str], cut: bool, batch: int = 1) -> Tensor:
        words = model.encode_words(tokens, cut=cut)[0].to(given.values.device)
        with torch.inference_mode():
            return model.log_probs(given.values.expand(batch, -1, -1), words.expand(batch, -1))

    explainers = {
        "CGVS": cgvs,
        "gradient": word_gradient,
        "integrated gradients": partial(integrated_gradients, steps=sizes.settings["face_to_face"]["steps"]),
    }
    found = {}
    for name in ("S2VT", "soft attention", "mean pooling"):
        found[f"forward pass of a sentence, {name}"] = Unit(EXPLAINING, asked(name, forward))
        found[f"forward pass of a sentence in a batch, {name}"] = Unit(
            EXPLAINING, asked(name, partial(forward, batch=sizes.images)), sizes.images
        )
        found |= {
            f"{label} of a sentence, {name}": Unit(
                EXPLAINING, asked(name, explain), against=f"forward pass of a sentence, {name}"
            )
            for label, explain in explainers.items()
        }
    found["attention of a sentence, soft attention"] = Unit(
        EXPLAINING, asked("soft attention", attention), against="forward pass of a sentence, soft attention"
    )
    for label, contrast, variant in (("cEB-R", True, "code"), ("cEB-R", True, "paper"), ("EB-R", False, "code")):
        explain = partial(eb_r_words, contrast=contrast, reading=variant)
        found[f"{label} ('{variant}') of a sentence, mean pooling"] = Unit(
            EXPLAINING, asked("mean pooling", explain), against="forward pass of a sentence, mean pooling"
        )
    return found


def areas_explained(sizes: Sizes) -> dict[str, Unit]:
    "The area attention of one sentence about one image."
    section, own = area_models(sizes.settings)["kinds/transformers"]

    def work(device: torch.device) -> Callable[[], object]:
        model = placed(partial(looker_of, sizes, section, own), device)
        with torch.inference_mode():
            values, corners, vector = model.eyes.look(*seen(sizes, own, 1, device))
        regions, words = Regions(corners[0].cpu(), View.whole(500, 375, side(sizes))), sentence(sizes)
        return lambda: area_attention(About(model.words, vector[0]), values[0], regions, words, cut=True, side=112)

    return {"area attention of a sentence": Unit(EXPLAINING, work)}


def frames_explained(sizes: Sizes) -> dict[str, Unit]:
    """Explanations of the frames of a clip, and of clips of features in time; each beside one pass of the network
    over the same frames."""
    at = FRAME_NETWORKS[sizes.frame_network][1]

    def made(device: torch.device) -> tuple[nn.Module, nn.Module, Tensor]:
        frames = torch.randn(sizes.frames, 3, side(sizes), side(sizes), device=device)
        return frame_network(sizes, device), placed(partial(recogniser_of, sizes), device), frames

    def unit(
        explain: Callable[[nn.Module, nn.Module, Tensor], object], against: str = "forward pass of a frame"
    ) -> Unit:
        def work(device: torch.device) -> Callable[[], object]:
            network, recogniser, frames = made(device)
            return lambda: explain(network, recogniser, frames)

        return Unit(EXPLAINING, work, sizes.frames, against)

    def in_time(contrast: bool, variant: str) -> Unit:
        def work(device: torch.device) -> Callable[[], object]:
            recogniser, values = (
                placed(partial(recogniser_of, sizes), device),
                torch.rand(sizes.images, sizes.settings["ebr/table2"]["frames"], sizes.fc7, device=device),
            )
            return lambda: evidence_in_time(recogniser, values, 1, contrast=contrast, reading=variant)

        return Unit(EXPLAINING, work, sizes.images, "scores of a clip in time")

    def scores(device: torch.device) -> Callable[[], object]:
        recogniser, values = (
            placed(partial(recogniser_of, sizes), device),
            torch.rand(sizes.images, sizes.settings["ebr/table2"]["frames"], sizes.fc7, device=device),
        )

        def run() -> Tensor:
            with torch.inference_mode():
                return recogniser.scores(values)

        return run

    def forward(network: nn.Module, recogniser: nn.Module, frames: Tensor) -> object:
        return features_of(network, frames, together=16)

    target = {"c1": 1}
    found = {
        "forward pass of a frame": unit(forward, ""),
        "EB of a frame": unit(lambda network, _, frames: excitation(network, frames, target, at)),
        "cEB of a frame": unit(lambda network, _, frames: excitation(network, frames, target, at, "top")),
        "gradient of a frame": unit(lambda network, _, frames: gradient(network, frames, target, "")),
    }
    for label, contrast in (("EB-R", False), ("cEB-R", True)):
        for variant in ("code", "paper"):
            found[f"{label} ('{variant}') of a frame"] = unit(
                lambda network, recogniser, frames, contrast=contrast, variant=variant: eb_r(
                    network, SOURCE, recogniser, frames, target, at, contrast, reading=variant
                )
            )

    def together(targets: int, way: Callable, layer: str) -> Unit:
        "As many explanations as there are targets, in one run through the network, as ebr/table1 makes them."

        def signals(values: Tensor) -> Tensor:
            return torch.rand(targets, *values.shape, device=values.device)

        return unit(lambda network, _, frames: in_frames(network, SOURCE, frames, signals, layer, way, kept=64))

    found |= {
        "six explanations by EB of a frame": together(6, by_excitation, at),
        "two explanations by gradients of a frame": together(2, by_gradients, ""),
    }
    found["gradient through time of a frame"] = unit(
        lambda network, recogniser, frames: bp_r(network, SOURCE, recogniser, frames, target)
    )
    found["scores of a clip in time"] = Unit(EXPLAINING, scores, sizes.images)
    return found | {
        f"{label} ('{variant}') of a clip in time": in_time(contrast, variant)
        for label, contrast in (("EB-R", False), ("cEB-R", True))
        for variant in ("code", "paper")
    }


def units(sizes: Sizes) -> dict[str, Unit]:
    "Return all units by name."
    return {
        **features(sizes),
        **caption_trainings(sizes),
        **action_trainings(sizes),
        **area_trainings(sizes),
        **decoding(sizes),
        **sentences_explained(sizes),
        **areas_explained(sizes),
        **frames_explained(sizes),
    }
