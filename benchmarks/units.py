"""One unit of each long job of scale `paper`: a training step, the features of an image, the explanation of a caption.

`costs.py` measures a unit on this machine's CPU, `gpu.py` on a GPU. Both read the sizes from the settings of the scale.
Data are random: the outputs have no meaning, and captions always have the maximum length, which is the worst case of
decoding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgsaliency.core.geometry import CellGrid, ImageCrop
from cgsaliency.core.protocols import Descriptors
from cgsaliency.core.regions import QuadRegions
from cgsaliency.core.runtime import device_of, mixed_precision
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.explain.attention import area_attention, attention
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.explain.cnn_rnn import bp_r, eb_r, propagate_to_frames
from cgsaliency.explain.excitation import excitation_backprop, excitation_rule
from cgsaliency.explain.excitation_captions import eb_r_words
from cgsaliency.explain.excitation_rnn import temporal_evidence
from cgsaliency.explain.gradient import gradient_rule, gradient_saliency
from cgsaliency.explain.word_gradient import integrated_gradients, word_gradient
from cgsaliency.features.backbone import BACKBONES, Backbone
from cgsaliency.features.frame_extractor import FC7_LAYER, extract_layer_features
from cgsaliency.features.region_encoder import RegionEncoder, canvas_side
from cgsaliency.models.areas_of_attention import WithImageVector
from cgsaliency.models.base import captioning_loss
from cgsaliency.models.cnn_lstm import ActionLSTM
from cgsaliency.models.decode import beam_search
from cgsaliency.models.mean_pool import MeanPoolCaptioner
from cgsaliency.models.region_captioner import RegionCaptioner, region_captioning_loss
from cgsaliency.models.s2vt import S2VT
from cgsaliency.models.soft_attention import SoftAttention, attention_loss
from cgsaliency.reproduce.scale_config import load_scale

ROOT = Path(__file__).resolve().parent.parent
TRAINING, FEATURES, DECODING, EXPLAINING = "training", "features", "decoding", "explaining"


# Sizes


@dataclass(frozen=True)
class Sizes:
    "Sizes of all units."

    settings: dict[str, dict]  # of a scale, by notebook
    vocabulary: int = 7000  # words of Flickr30k's captions
    coco_vocabulary: int = 6324  # words of MSCOCO's captions that occur at least ten times
    length: int = 20  # words of a training caption
    explained_length: int = 12  # words of a caption that is explained
    cells: int = 8  # descriptors in a row, and in a column, of the grid
    features: int = 2048  # D of a descriptor
    backbone: str = "inception_v3"
    frame_network: str = "vgg16"
    fc7: int = 4096  # D of a frame
    classes: int = 101
    images: int = 64  # in one pass of feature extraction
    frames: int = 128  # of a clip that is explained
    proposals: int = 50  # boxes of an image


def paper_settings() -> dict[str, dict]:
    "Return the settings of scale `paper`, by notebook."
    return load_scale("paper")


SMALLEST = {
    "word_dim": 8,
    "hidden_dim": 8,
    "embed_dim": 8,
    "attention_dim": 8,
    "batch_size": 2,
    "num_captions": 2,
    "num_frames": 4,
    "frames_per_clip": 4,
    "max_words": 5,
    "integration_steps": 2,
    "clip_length": 4,
    "network": "toyvgg",
}


def smallest(settings: Any, name: str = "") -> Any:
    "Return the settings with the smallest sizes of all models and batches."
    if isinstance(settings, dict):
        return {key: smallest(value, key) for key, value in settings.items()}
    return SMALLEST.get(name, settings) if settings else settings


def paper_sizes(**changes: int) -> Sizes:
    "Return the sizes of scale `paper`, with the given changes."
    return Sizes(paper_settings(), **changes)


def smallest_sizes() -> Sizes:
    "Return sizes for which every unit takes a fraction of a second on a CPU."
    return Sizes(
        smallest(paper_settings()),
        vocabulary=12,
        coco_vocabulary=12,
        length=4,
        explained_length=3,
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
    "A call to measure, and the number of units in it."

    kind: str  # TRAINING, FEATURES, DECODING or EXPLAINING
    make: Callable[[torch.device], Callable[[], object]]  # builds model and data on a device; returns the measured call
    per_call: int = 1  # units in one call
    against: str = ""  # the unit relative to which it is reported


def training_step(
    model: nn.Module,  # on its device
    loss: Callable[[nn.Module, Any], Tensor],
    batch: Any,  # on the same device
) -> Callable[[], Tensor]:
    """Return a function that trains the model by one step of Adam, in the current precision, and returns the loss; its
    attribute `parameters` is the number of trained parameters."""
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
    "Return a vocabulary with the given number of words."
    return Vocabulary.from_captions([[f"w{k}" for k in range(words)]])


def random_captions(items: int, captions: int, length: int, words: int, device: torch.device) -> Tensor:
    "Return random captions, items × captions × length."
    return torch.randint(1, words, (items, captions, length), device=device)


def captioner_of(sizes: Sizes, name: str) -> Callable[[], nn.Module]:
    "Return the constructor of a captioner: 'S2VT', 'soft attention' or 'mean pooling'."
    settings, vocabulary = sizes.settings, vocabulary_of(sizes.vocabulary)
    kind, kwargs = {
        "S2VT": (S2VT, settings["cgvs/captioner"]["model_kwargs"]),
        "soft attention": (SoftAttention, settings["cgvs/captioners_crop"]["soft_attention"]),
        "mean pooling": (MeanPoolCaptioner, settings["ebr/captioner"]["model_kwargs"]),
    }[name]
    max_words = settings["cgvs/captioner"]["model_kwargs"]["max_words"]
    return partial(kind, vocabulary, **{"feature_dim": sizes.features, **kwargs, "max_words": max_words})


def build_model(make: Callable[[], nn.Module], device: torch.device) -> nn.Module:
    "Build the model on the device, in eval mode."
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
    "Return a training step of a captioner of descriptors, with the batch size and captions of the notebook."
    notebook, _, key = section.partition(" ")
    config = sizes.settings[notebook][key] if key else sizes.settings[notebook]
    items, captions = config["training"]["batch_size"], config.get("num_captions", 5)
    length = min(sizes.length, sizes.settings["cgvs/captioners_crop"]["max_words"])

    def work(device: torch.device) -> Callable[[], Tensor]:
        model = build_model(make, device)
        values = torch.rand(items, descriptors, sizes.features, device=device)
        batch = values, random_captions(items, captions, length, sizes.vocabulary, device)
        maps = torch.rand(items, captions, length, descriptors, device=device)
        return training_step(model, loss, (*batch, maps) if supervised else batch)

    return Unit(TRAINING, work)


def caption_trainings(sizes: Sizes) -> dict[str, Unit]:
    "Return the training steps of the captioners of cgvs and ebr."
    crops, videos = sizes.settings["cgvs/captioners_crop"], sizes.settings["cgvs/captioners_video"]
    num_cells = sizes.cells**2
    video_captioners = {
        name: partial(captioner_of(sizes, name), **videos[key])
        for name, key in (("S2VT", "s2vt"), ("soft attention", "soft_attention"))
    }
    soft = captioner_of(sizes, "soft attention")
    return {
        "training step, S2VT, images": caption_training(
            sizes, captioner_of(sizes, "S2VT"), "cgvs/captioners_crop", num_cells
        ),
        "training step, soft attention, images": caption_training(
            sizes,
            soft,
            "cgvs/captioners_crop",
            num_cells,
            partial(attention_loss, doubly_stochastic_weight=crops["doubly_stochastic_weight"]),
        ),
        "training step, supervised attention, images": caption_training(
            sizes,
            soft,
            "cgvs/captioners_crop",
            num_cells,
            partial(
                attention_loss,
                doubly_stochastic_weight=crops["doubly_stochastic_weight"],
                supervision_weight=crops["supervision_weight"],
            ),
            True,
        ),
        "training step, S2VT, videos": caption_training(
            sizes, video_captioners["S2VT"], "cgvs/captioners_video", videos["num_frames"]
        ),
        "training step, soft attention, videos": caption_training(
            sizes,
            video_captioners["soft attention"],
            "cgvs/captioners_video",
            videos["num_frames"],
            partial(attention_loss, doubly_stochastic_weight=videos["doubly_stochastic_weight"]),
        ),
        "training step, mean pooling, images": caption_training(
            sizes, captioner_of(sizes, "mean pooling"), "ebr/captioner images", 1
        ),
        "training step, mean pooling, videos": caption_training(
            sizes, captioner_of(sizes, "mean pooling"), "ebr/captioner videos", 1
        ),
    }


def frame_network(sizes: Sizes, device: torch.device) -> nn.Module:
    "Return the frame CNN, frozen and in eval mode."
    build = partial(BACKBONES[sizes.frame_network].build, num_classes=sizes.classes)
    return build_model(build, device).requires_grad_(False)


def input_size(sizes: Sizes) -> int:
    "Return the side of the frame CNN's input, pixels."
    return BACKBONES[sizes.frame_network].size


def action_trainings(sizes: Sizes) -> dict[str, Unit]:
    "Return the training steps of the frame CNN and of the LSTM over its features."

    def frames(device: torch.device) -> Callable[[], Tensor]:
        items = sizes.settings["ebr/frame_cnn"]["training"]["batch_size"]
        images = torch.randn(items, 3, input_size(sizes), input_size(sizes), device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        batch = images, torch.randint(sizes.classes, (items,), device=device)
        return training_step(
            frame_network(sizes, device).requires_grad_(True),
            lambda network, pair: F.cross_entropy(network(pair[0]), pair[1]),
            batch,
        )

    def clips(device: torch.device) -> Callable[[], Tensor]:
        config = sizes.settings["ebr/action_lstm"]
        items, length = config["training"]["batch_size"], config["clip_length"]
        batch = (
            torch.rand(items, length, sizes.fc7, device=device),
            torch.randint(sizes.classes, (items,), device=device),
        )
        model = build_model(partial(build_action_lstm, sizes), device)
        return training_step(
            model,
            lambda model, pair: F.cross_entropy(model.scores(pair[0]).flatten(0, 1), pair[1].repeat_interleave(length)),
            batch,
        )

    return {
        "training step, VGG-16 on frames": Unit(TRAINING, frames),
        "training step, LSTM on frames": Unit(TRAINING, clips),
    }


def build_action_lstm(sizes: Sizes) -> ActionLSTM:
    "Build the LSTM over the features of frames."
    return ActionLSTM(
        tuple(f"c{k}" for k in range(sizes.classes)), sizes.fc7, **sizes.settings["ebr/action_lstm"]["model_kwargs"]
    )


# Areas of attention

AREAS = tuple(
    f"aoa/{name}"
    for name in ("train_terms", "parameterizations", "train_region_types", "flickr30k", "finetuned", "ensemble")
)


def area_models(settings: dict[str, dict]) -> dict[str, tuple[str, dict]]:
    "Return the notebook and the settings of each model of aoa, by 'notebook/model'."
    models = {}
    for section in AREAS:
        paper_section = section.removeprefix("aoa/")
        models |= {f"{paper_section}/{name}": (section, config) for name, config in settings[section]["models"].items()}
    return models


def build_region_captioner(sizes: Sizes, section: str, config: dict) -> RegionCaptioner:
    "Build the RegionCaptioner with its backbone."
    settings = sizes.settings[section]
    words = sizes.vocabulary if section == "aoa/flickr30k" else sizes.coco_vocabulary
    return RegionCaptioner(
        vocabulary_of(words),
        {"network": sizes.frame_network, **config["encoder_kwargs"]},
        settings["max_words"],
        **{**settings["model_kwargs"], **config.get("model_kwargs", {})},
    )


def encoder_inputs(
    sizes: Sizes, config: dict, items: int, device: torch.device, images: bool = False
) -> tuple[Tensor, ...]:
    "Return the inputs of the captioner's `feature_maps`: images or γ; for proposals boxes, and canvases or maps."
    spec = BACKBONES[sizes.frame_network]
    with torch.device("meta"):
        gamma = spec.build().features[: spec.split.lower_end](torch.empty(1, 3, spec.size, spec.size)).shape[1:]
    values = torch.rand(items, *((3, spec.size, spec.size) if images else gamma), device=device)
    if config["encoder_kwargs"]["region_type"] != "proposals":
        return (values,)
    side = canvas_side(spec.size)
    corner = torch.rand(items, sizes.proposals, 2, device=device) * side / 2
    boxes = torch.cat([corner, corner + side / 4], -1)
    with torch.device("meta"):
        maps = spec.build().features[: spec.split.map_end](torch.empty(1, 3, side, side)).shape[1:]
    return values, boxes, torch.rand(items, *((3, side, side) if images else maps), device=device)


def area_training(sizes: Sizes, section: str, config: dict) -> Unit:
    "Return a training step of a RegionCaptioner; in aoa/finetuned, and last in aoa/ensemble, the CNN is fine-tuned."
    settings = sizes.settings[section]
    finetuned = section == "aoa/finetuned" or config.get("finetune_cnn", False)

    def work(device: torch.device) -> Callable[[], Tensor]:
        items = settings["training"]["batch_size"]
        model = build_model(partial(build_region_captioner, sizes, section, config), device)
        model.region_encoder.set_finetuned(finetuned)
        values, *boxes = encoder_inputs(sizes, config, items, device, images=finetuned)
        length = min(sizes.length, settings["max_words"] + 1)
        captions = random_captions(items, settings["num_captions"], length, len(model.vocabulary), device)
        return training_step(model, region_captioning_loss, (values, captions, *boxes))

    return Unit(TRAINING, work)


def area_trainings(sizes: Sizes) -> dict[str, Unit]:
    "Return a training step of each model of aoa."
    return {
        f"training step, areas of attention, {name}": area_training(sizes, section, config)
        for name, (section, config) in area_models(sizes.settings).items()
    }


# Features


def features(sizes: Sizes) -> dict[str, Unit]:
    "Return the feature extraction of images and frames by the frozen networks; inputs and features are on the CPU."

    def inception(device: torch.device) -> Callable[[], Tensor]:
        backbone = build_model(partial(Backbone, sizes.backbone), device)
        images = torch.rand(sizes.images, 3, backbone.size, backbone.size)

        def extract() -> Tensor:
            with torch.inference_mode(), mixed_precision(device):
                return backbone(images.to(device)).float().cpu()

        return extract

    def fc7(device: torch.device) -> Callable[[], object]:
        network, images = (
            frame_network(sizes, device),
            torch.randn(sizes.images, 3, input_size(sizes), input_size(sizes)),
        )

        def extract() -> object:
            with mixed_precision(device):
                return extract_layer_features(network, images, batch_size=sizes.images)

        return extract

    def region_map(side: int, encode: Callable[[RegionEncoder, Tensor], Tensor]) -> Callable:
        def work(device: torch.device) -> Callable[[], Tensor]:
            make_model = partial(build_region_captioner, sizes, *area_models(sizes.settings)["train_terms/full"])
            encoder = build_model(make_model, device).region_encoder
            images = torch.rand(sizes.images, 3, side, side)

            def extract() -> Tensor:
                with torch.inference_mode(), mixed_precision(device):
                    return encode(encoder, images.to(device)).float().cpu()

            return extract

        return work

    size = input_size(sizes)
    gamma = region_map(size, RegionEncoder.lower_features)
    canvas_maps = region_map(canvas_side(size), RegionEncoder.proposal_features)
    return {
        "Inception-v3 features of an image": Unit(FEATURES, inception, sizes.images),
        "VGG-16 fc7 of a frame": Unit(FEATURES, fc7, sizes.images),
        "VGG-16 conv5 map of an image": Unit(FEATURES, gamma, sizes.images),
        "VGG-16 map of an image for proposals": Unit(FEATURES, canvas_maps, sizes.images),
    }


# Decoding


def decoding(sizes: Sizes) -> dict[str, Unit]:
    "Return the generation of captions."

    def caption_unit(
        make: Callable[[], nn.Module], beam: int, items: int, inputs: Callable[[int, torch.device], tuple[Tensor, ...]]
    ) -> Unit:
        def work(device: torch.device) -> Callable[[], object]:
            model, values = build_model(make, device), inputs(items, device)
            return lambda: beam_search(model, values, beam, model.max_words)

        return Unit(DECODING, work, items)

    def descriptors(items: int, device: torch.device) -> tuple[Tensor, ...]:
        return (torch.rand(items, sizes.cells**2, sizes.features, device=device),)

    names = ("S2VT", "soft attention", "mean pooling")
    units = {
        f"greedy caption, {name}": caption_unit(captioner_of(sizes, name), 1, sizes.images, descriptors)
        for name in names
    }
    units |= {
        f"caption by a beam of 5, {name}": caption_unit(captioner_of(sizes, name), 5, sizes.images, descriptors)
        for name in names[:2]
    }
    models = area_models(sizes.settings)
    for name in ("train_terms/full", "train_region_types/spatial_transformers", "train_region_types/proposals"):
        units[f"caption by a beam of 3, areas of attention, {name}"] = area_caption_unit(sizes, *models[name])
    return units


def area_caption_unit(sizes: Sizes, section: str, config: dict) -> Unit:
    "Return the captions of a region captioner by a beam of 3, with as many regions as at test time."
    test_regions = sizes.settings[section]["test_regions"][config["encoder_kwargs"]["region_type"]]
    sizes = replace(sizes, proposals=test_regions.get("num_boxes", sizes.proposals))
    items = max(min(sizes.images * 3 // 4, 10_000 // sizes.proposals), 1)

    def work(device: torch.device) -> Callable[[], object]:
        model = build_model(partial(build_region_captioner, sizes, section, config), device)
        inputs = encoder_inputs(sizes, config, items, device)

        def decode() -> object:
            with model.with_stride(test_regions.get("stride")):
                return beam_search(model, inputs, 3, model.max_words)

        return decode

    return Unit(DECODING, work, items)


# Explaining


def image_descriptors(sizes: Sizes, device: torch.device) -> Descriptors:
    "Return random descriptors of an image."
    values = torch.rand(sizes.cells**2, sizes.features, device=device)
    return Descriptors(values, CellGrid.uniform(sizes.cells, sizes.cells, 299, 299), ImageCrop.full(500, 375, 299))


def caption_tokens(sizes: Sizes) -> list[str]:
    "Return the tokens of a caption to explain."
    return [f"w{k}" for k in range(sizes.explained_length)]


def caption_explanations(sizes: Sizes) -> dict[str, Unit]:
    "Return the explanations of a caption of an image, by explainer and captioner, relative to one forward pass."

    def explanation_call(name: str, explain: Callable) -> Callable[[torch.device], Callable[[], object]]:
        def work(device: torch.device) -> Callable[[], object]:
            model, descriptors = build_model(captioner_of(sizes, name), device), image_descriptors(sizes, device)
            return lambda: explain(model, descriptors, caption_tokens(sizes), truncate=True)

        return work

    def forward(
        model: nn.Module, descriptors: Descriptors, tokens: list[str], truncate: bool, batch: int = 1
    ) -> Tensor:
        words = model.encode_words(tokens, truncate=truncate)[0].to(descriptors.features.device)
        with torch.inference_mode():
            return model.log_probs(descriptors.features.expand(batch, -1, -1), words.expand(batch, -1))

    explainers = {
        "CGVS": cgvs,
        "gradient": word_gradient,
        "integrated gradients": partial(
            integrated_gradients, steps=sizes.settings["method_comparison"]["integration_steps"]
        ),
    }
    units = {}
    for name in ("S2VT", "soft attention", "mean pooling"):
        units[f"forward pass of a sentence, {name}"] = Unit(EXPLAINING, explanation_call(name, forward))
        units[f"forward pass of a sentence in a batch, {name}"] = Unit(
            EXPLAINING, explanation_call(name, partial(forward, batch=sizes.images)), sizes.images
        )
        units |= {
            f"{label} of a sentence, {name}": Unit(
                EXPLAINING, explanation_call(name, explain), against=f"forward pass of a sentence, {name}"
            )
            for label, explain in explainers.items()
        }
    units["attention of a sentence, soft attention"] = Unit(
        EXPLAINING, explanation_call("soft attention", attention), against="forward pass of a sentence, soft attention"
    )
    for label, contrast, variant in (("cEB-R", True, "code"), ("cEB-R", True, "paper"), ("EB-R", False, "code")):
        explain = partial(eb_r_words, contrastive=contrast, variant=variant)
        units[f"{label} ('{variant}') of a sentence, mean pooling"] = Unit(
            EXPLAINING, explanation_call("mean pooling", explain), against="forward pass of a sentence, mean pooling"
        )
    return units


def area_explanations(sizes: Sizes) -> dict[str, Unit]:
    "Return the area attention of a caption of an image."
    section, config = area_models(sizes.settings)["train_region_types/spatial_transformers"]

    def work(device: torch.device) -> Callable[[], object]:
        model = build_model(partial(build_region_captioner, sizes, section, config), device)
        with torch.inference_mode():
            values, corners, vector = model.region_encoder.encode_regions(*encoder_inputs(sizes, config, 1, device))
        regions, words = (
            QuadRegions(corners[0].cpu(), ImageCrop.full(500, 375, input_size(sizes))),
            caption_tokens(sizes),
        )
        return lambda: area_attention(
            WithImageVector(model.decoder, vector[0]), values[0], regions, words, truncate=True, map_size=112
        )

    return {"area attention of a sentence": Unit(EXPLAINING, work)}


def frame_explanations(sizes: Sizes) -> dict[str, Unit]:
    """Return the explanations of the frames of a clip, and in time of clips of features, relative to one forward pass
    over the same frames."""
    target_layer = BACKBONES[sizes.frame_network].target_layer

    def build(device: torch.device) -> tuple[nn.Module, nn.Module, Tensor]:
        frames = torch.randn(sizes.frames, 3, input_size(sizes), input_size(sizes), device=device)
        return frame_network(sizes, device), build_model(partial(build_action_lstm, sizes), device), frames

    def unit(
        explain: Callable[[nn.Module, nn.Module, Tensor], object], against: str = "forward pass of a frame"
    ) -> Unit:
        def work(device: torch.device) -> Callable[[], object]:
            network, classifier, frames = build(device)
            return lambda: explain(network, classifier, frames)

        return Unit(EXPLAINING, work, sizes.frames, against)

    def clips(device: torch.device) -> tuple[nn.Module, Tensor]:
        classifier = build_model(partial(build_action_lstm, sizes), device)
        num_frames = sizes.settings["ebr/table2"]["num_frames"]
        return classifier, torch.rand(sizes.images, num_frames, sizes.fc7, device=device)

    def in_time(contrast: bool, variant: str) -> Unit:
        def work(device: torch.device) -> Callable[[], object]:
            classifier, values = clips(device)
            return lambda: temporal_evidence(classifier, values, 1, contrastive=contrast, variant=variant)

        return Unit(EXPLAINING, work, sizes.images, "scores of a clip in time")

    def scores(device: torch.device) -> Callable[[], object]:
        classifier, values = clips(device)

        def run() -> Tensor:
            with torch.inference_mode():
                return classifier.scores(values)

        return run

    def forward(network: nn.Module, classifier: nn.Module, frames: Tensor) -> object:
        return extract_layer_features(network, frames, batch_size=16)

    target = {"c1": 1}
    units = {
        "forward pass of a frame": unit(forward, ""),
        "EB of a frame": unit(lambda network, _, frames: excitation_backprop(network, frames, target, target_layer)),
        "cEB of a frame": unit(
            lambda network, _, frames: excitation_backprop(network, frames, target, target_layer, "top")
        ),
        "gradient of a frame": unit(lambda network, _, frames: gradient_saliency(network, frames, target, "")),
    }
    for label, contrast in (("EB-R", False), ("cEB-R", True)):
        for variant in ("code", "paper"):
            units[f"{label} ('{variant}') of a frame"] = unit(
                lambda network, classifier, frames, contrast=contrast, variant=variant: eb_r(
                    network, FC7_LAYER, classifier, frames, target, target_layer, contrast, variant=variant
                )
            )

    def joint(targets: int, rule: Callable, layer: str) -> Unit:
        "Return a unit that explains all targets in one pass through the network, as in ebr/table1."

        def signals(values: Tensor) -> Tensor:
            return torch.rand(targets, *values.shape, device=values.device)

        return unit(
            lambda network, _, frames: propagate_to_frames(
                network, FC7_LAYER, frames, signals, layer, rule, max_cached_frames=64
            )
        )

    units |= {
        "six explanations by EB of a frame": joint(6, excitation_rule, target_layer),
        "two explanations by gradients of a frame": joint(2, gradient_rule, ""),
    }
    units["gradient through time of a frame"] = unit(
        lambda network, classifier, frames: bp_r(network, FC7_LAYER, classifier, frames, target)
    )
    units["scores of a clip in time"] = Unit(EXPLAINING, scores, sizes.images)
    return units | {
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
        **caption_explanations(sizes),
        **area_explanations(sizes),
        **frame_explanations(sizes),
    }
