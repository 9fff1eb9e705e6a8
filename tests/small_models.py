"""Every model class of the package in miniature, with a batch for training and, for captioners, inputs for decoding."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgsaliency.core.geometry import CellGrid, ImageCrop
from cgsaliency.core.protocols import Descriptors
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.features.backbone import Backbone
from cgsaliency.features.extractor import DescriptorExtractor
from cgsaliency.features.frame_extractor import FC7_LAYER
from cgsaliency.features.region_encoder import canvas_side
from cgsaliency.features.toy_cnn import ToyNet, ToyVGG
from cgsaliency.models.areas_of_attention import AreasOfAttention, areas_loss
from cgsaliency.models.base import captioning_loss
from cgsaliency.models.cnn_lstm import ActionLSTM
from cgsaliency.models.decode import Ensemble
from cgsaliency.models.mean_pool import MeanPoolCaptioner
from cgsaliency.models.region_captioner import RegionCaptioner, region_captioning_loss
from cgsaliency.models.registry import CaptioningPipeline
from cgsaliency.models.s2vt import S2VT
from cgsaliency.models.soft_attention import SoftAttention, attention_loss
from cgsaliency.models.traced_rnn import TracedRNN
from cgsaliency.toy.color_models import ColorClassifier

WORDS = "a man in red shirt plays guitar on stage with his dog".split()
VOCABULARY = Vocabulary.from_captions([WORDS])
TOKENS = "A man strums in red ,".split()  # two of them are unknown to the captioners here
ROWS, COLUMNS, FEATURES, MAX_WORDS = 2, 3, 6, 5
CELLS = ROWS * COLUMNS


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    "Return numbers in [0, 1), the same for each shape and seed."
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def random_captions(num_images: int, per_image: int = 2) -> Tensor:
    "Return token ids of captions of several lengths with the end token, then -1; num_images × per_image × MAX_WORDS."
    token_ids = torch.randint(
        1, len(VOCABULARY), (num_images, per_image, MAX_WORDS), generator=torch.Generator().manual_seed(1)
    )
    for k, row in enumerate(token_ids.flatten(0, 1)):
        row[(end := 2 + k % (MAX_WORDS - 2)) - 1] = 0
        row[end:] = -1
    return token_ids


def descriptors(num_frames: int = 1) -> Descriptors:
    "Return descriptors of an image, or of a video of several frames."
    times = tuple(k / 2 for k in range(num_frames))
    return Descriptors(
        random_tensor(num_frames * CELLS, FEATURES),
        CellGrid.uniform(ROWS, COLUMNS, 40, 60),
        ImageCrop.full(60, 40, 40),
        times,
    )


@dataclass(frozen=True)
class Case:
    "A model in miniature."

    make: Callable[[], nn.Module]
    batch: Callable[[], Any]  # on the CPU
    loss: Callable[[nn.Module, Any], Tensor]  # of the batch on the model's device
    inputs: Callable[[], Any] = lambda: None  # arguments of a captioner's `init_state`; None for other models
    trainable: bool = True  # whether it has parameters to train
    covers: tuple[str, ...] = field(default=())  # what the case tests besides its classes


def _captioner(make: Callable[[], nn.Module], loss: Callable = captioning_loss) -> Case:
    return Case(
        make,
        lambda: (random_tensor(3, CELLS, FEATURES), random_captions(3)),
        loss,
        lambda: random_tensor(2, CELLS, FEATURES),
    )


def _classified(make: Callable[[], nn.Module], size: int = 112) -> Case:
    return Case(
        make,
        lambda: (random_tensor(2, 3, size, size), torch.tensor([1, 0])),
        lambda model, pair: F.cross_entropy(model(pair[0]).flatten(1), pair[1]),
    )


def _action_lstm(kind: str, activation: str, num_layers: int = 1) -> Case:
    return Case(
        lambda: ActionLSTM(("a", "b", "c"), FEATURES, 5, kind, activation, num_layers),
        lambda: (random_tensor(2, 4, FEATURES), torch.tensor([2, 0])),
        lambda model, pair: F.cross_entropy(model.scores(pair[0]).flatten(0, 1), pair[1].repeat_interleave(4)),
    )


def _region_captioner(region_type: str) -> Case:
    def make() -> nn.Module:
        encoder_kwargs = {
            "network": "toyvgg",
            "region_type": region_type,
            "stride": 4,
            "num_classes": 4,
            "channels": 16,
            "hidden_dim": 8,
        }
        return RegionCaptioner(VOCABULARY, encoder_kwargs, word_dim=8, hidden_dim=8)

    def inputs() -> tuple[Tensor, ...]:
        features = random_tensor(2, 12, 14, 14)
        if region_type != "proposals":
            return (features,)
        numbers = 100 * random_tensor(2, 3, 4)
        boxes = torch.cat([numbers[..., :2] / 2, numbers[..., :2] / 2 + numbers[..., 2:] / 2 + 5], -1)
        boxes[0, 2] = 0.0  # padding
        return features, boxes, random_tensor(2, 16, 28, 28)

    def batch() -> tuple[Tensor, ...]:
        _, *proposals = inputs()
        images, captions = random_tensor(2, 3, 112, 112), random_captions(2)
        if not proposals:
            return images, captions
        side = canvas_side(112)
        return images, captions, proposals[0], random_tensor(2, 3, side, side)

    return Case(make, batch, region_captioning_loss, inputs)


def _backbone(name: str, size: int) -> Case:
    model_kwargs = {"num_labels": 3, "channels": 12} if name == "toynet" else {}
    return Case(
        lambda: Backbone(name, size=size, **model_kwargs),
        lambda: random_tensor(1, 3, size, size),
        lambda model, images: model(images).square().mean(),
        trainable=False,
        covers=(f"backbone {name}",),
    )


def s2vt(**options: Any) -> S2VT:
    return S2VT(VOCABULARY, FEATURES, embed_dim=8, word_dim=6, hidden_dim=10, max_words=8, **options)


def soft_attention(**options: Any) -> SoftAttention:
    return SoftAttention(VOCABULARY, FEATURES, word_dim=6, hidden_dim=10, attention_dim=5, max_words=8, **options)


def mean_pool(**options: Any) -> MeanPoolCaptioner:
    return MeanPoolCaptioner(VOCABULARY, FEATURES, word_dim=6, hidden_dim=10, max_words=8, **options)


def areas(**options: Any) -> AreasOfAttention:
    return AreasOfAttention(VOCABULARY, FEATURES, word_dim=6, hidden_dim=8, max_words=8, **options)


def extractor() -> DescriptorExtractor:
    return DescriptorExtractor(Backbone("toynet", size=32, num_labels=3, channels=6), 2, 2)


CASES = {
    "S2VT": _captioner(s2vt),
    "S2VT, reversed order": _captioner(lambda: s2vt(scan_indices=list(range(CELLS))[::-1])),
    "SoftAttention": _captioner(
        soft_attention, lambda model, batch: attention_loss(model, batch, doubly_stochastic_weight=0.1)
    ),
    "SoftAttention, supervised": Case(
        soft_attention,
        lambda: (random_tensor(3, CELLS, FEATURES), random_captions(3), random_tensor(3, 2, MAX_WORDS, CELLS)),
        lambda model, batch: attention_loss(model, batch, supervision_weight=0.1),
    ),
    "MeanPoolCaptioner, relu": _captioner(mean_pool),
    "MeanPoolCaptioner, tanh": _captioner(lambda: mean_pool(activation="tanh", dropout=0.5)),
    **{
        f"AreasOfAttention, {parameterization}, {feedback}": _captioner(
            lambda parameterization=parameterization, feedback=feedback: areas(
                parameterization=parameterization, feedback=feedback
            ),
            areas_loss,
        )
        for parameterization in ("paper", "code")
        for feedback in ("marginal", "conditional", None)
    },
    "AreasOfAttention, without s(w, r)": _captioner(lambda: areas(terms=("region-state",)), areas_loss),
    **{
        f"RegionCaptioner, {region_type}": _region_captioner(region_type)
        for region_type in ("grid", "proposals", "spatial_transformers")
    },
    **{
        f"ActionLSTM, {kind}, {activation}": _action_lstm(kind, activation)
        for kind in ("lstm", "gru")
        for activation in ("relu", "tanh")
    },
    "ActionLSTM, two layers": _action_lstm("lstm", "tanh", 2),
    "TracedRNN, with a context": Case(
        lambda: TracedRNN(FEATURES, 5, context_dim=3),
        lambda: (random_tensor(2, 4, FEATURES), random_tensor(2, 3)),
        lambda model, pair: model(*pair).square().mean(),
    ),
    "ToyVGG": _classified(lambda: ToyVGG(3, channels=16, hidden_dim=8)),
    "ToyNet": _classified(lambda: ToyNet(3, 12), 32),
    "ColorClassifier": _classified(ColorClassifier, 8),
    "Ensemble": _captioner(
        lambda: Ensemble([mean_pool(), soft_attention()], inputs_per_member=1),
        lambda model, batch: sum(captioning_loss(member, batch) for member in model.members),
    ),
    "CaptioningPipeline": Case(
        lambda: CaptioningPipeline(s2vt(), extractor()),
        lambda: (random_tensor(3, CELLS, FEATURES), random_captions(3)),
        lambda model, batch: captioning_loss(model.captioner, batch),
    ),
    "toynet": _backbone("toynet", 32),
    "squeezenet1_1": _backbone("squeezenet1_1", 48),
    "mobilenet_v2": _backbone("mobilenet_v2", 32),
    "resnet50": _backbone("resnet50", 32),
    "vgg16": _backbone("vgg16", 32),
    "toyvgg": _backbone("toyvgg", 32),
    "inception_v3": _backbone("inception_v3", 75),
}
CAPTIONERS = {"S2VT": s2vt, "SoftAttention": soft_attention, "MeanPoolCaptioner": mean_pool, "AreasOfAttention": areas}


def clip_network() -> tuple[nn.Module, str, str, Tensor]:
    "Return a CNN for frames, the layer that recurrent layers read, a layer with cells, and four frames."
    torch.manual_seed(0)
    return ToyVGG(3, channels=16, hidden_dim=FEATURES).eval(), FC7_LAYER, "features.9", random_tensor(4, 3, 112, 112)
