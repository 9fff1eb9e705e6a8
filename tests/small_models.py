"""Every model class of the package in miniature, with a batch to train on and, for captioners, what they are asked."""

from dataclasses import dataclass, field
from typing import Any, Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgsaliency.core.contracts import Descriptors
from cgsaliency.core.geometry import Grid, View
from cgsaliency.data.text import Vocabulary
from cgsaliency.models.action import SOURCE, ActionRecogniser, ToyVGG
from cgsaliency.models.areas import Areas, areas_loss
from cgsaliency.models.backbone import Backbone, ToyNet
from cgsaliency.models.captioning import captioning_loss
from cgsaliency.models.colours import Painter
from cgsaliency.models.decode import Together
from cgsaliency.models.descriptors import Describer
from cgsaliency.models.looking import Looker, looking_loss
from cgsaliency.models.mean_pool import MeanPool
from cgsaliency.models.ready import Ready
from cgsaliency.models.recurrent import Recurrent
from cgsaliency.models.s2vt import S2VT
from cgsaliency.models.soft_attention import SoftAttention, attention_loss

WORDS = "a man in red shirt plays guitar on stage with his dog".split()
VOCABULARY = Vocabulary.of([WORDS])
TOKENS = "A man strums in red ,".split()  # two of which no captioner here knows
ROWS, COLUMNS, FEATURES, LONG = 2, 3, 6, 5
CELLS = ROWS * COLUMNS


def drawn(*shape: int, seed: int = 0) -> Tensor:
    "Numbers in [0, 1), always the same."
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def captions(pictures: int, each: int = 2) -> Tensor:
    "Word indices of several lengths with their end, then -1, pictures × each × LONG."
    found = torch.randint(1, len(VOCABULARY), (pictures, each, LONG), generator=torch.Generator().manual_seed(1))
    for k, row in enumerate(found.flatten(0, 1)):
        row[(end := 2 + k % (LONG - 2)) - 1] = 0
        row[end:] = -1
    return found


def descriptors(frames: int = 1) -> Descriptors:
    "Of a picture, or of a film of several frames."
    times = tuple(k / 2 for k in range(frames))
    return Descriptors(drawn(frames * CELLS, FEATURES), Grid.even(ROWS, COLUMNS, 40, 60), View.whole(60, 40, 40), times)


@dataclass(frozen=True)
class Case:
    "A model in miniature."

    make: Callable[[], nn.Module]
    batch: Callable[[], Any]  # on the CPU, as a user has it
    loss: Callable[[nn.Module, Any], Tensor]  # of the batch on the model's device
    seen: Callable[[], Any] = lambda: None  # what `begin` of a captioner takes; None for other models
    learns: bool = True  # whether it has parameters to be trained
    covers: tuple[str, ...] = field(default=())  # what the case stands for besides its classes


def _captioner(make: Callable[[], nn.Module], loss: Callable = captioning_loss) -> Case:
    return Case(make, lambda: (drawn(3, CELLS, FEATURES), captions(3)), loss, lambda: drawn(2, CELLS, FEATURES))


def _classified(make: Callable[[], nn.Module], size: int = 112) -> Case:
    return Case(
        make,
        lambda: (drawn(2, 3, size, size), torch.tensor([1, 0])),
        lambda model, pair: F.cross_entropy(model(pair[0]).flatten(1), pair[1]),
    )


def _recogniser(kind: str, squash: str, layers: int = 1) -> Case:
    return Case(
        lambda: ActionRecogniser(("a", "b", "c"), FEATURES, 5, kind, squash, layers),
        lambda: (drawn(2, 4, FEATURES), torch.tensor([2, 0])),
        lambda model, pair: F.cross_entropy(model.scores(pair[0]).flatten(0, 1), pair[1].repeat_interleave(4)),
    )


def _looker(kind: str, form: str = "paper", feedback: str | None = "marginal") -> Case:
    def make() -> nn.Module:
        eyes = {"network": "toyvgg", "kind": kind, "stride": 4, "num_classes": 4, "width": 16, "units": 8}
        return Looker(VOCABULARY, eyes, words=8, hidden=8, form=form, feedback=feedback)

    def seen() -> tuple[Tensor, ...]:
        gamma = drawn(2, 12, 14, 14)
        if kind != "proposals":
            return (gamma,)
        boxes = 100 * drawn(2, 3, 4)
        return (
            gamma,
            torch.cat([boxes[..., :2] / 2, boxes[..., :2] / 2 + boxes[..., 2:] / 2 + 5], -1),
            torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]),
        )

    def batch() -> tuple[Tensor, ...]:
        gamma, *more = seen()
        return drawn(2, 3, 112, 112), captions(2), *more

    return Case(make, batch, looking_loss, seen)


def _backbone(name: str, size: int) -> Case:
    sizes = {"words": 3, "width": 12} if name == "toynet" else {}
    return Case(
        lambda: Backbone(name, size=size, **sizes),
        lambda: drawn(1, 3, size, size),
        lambda model, pictures: model(pictures).square().mean(),
        learns=False,
        covers=(f"backbone {name}",),
    )


def s2vt(**more: Any) -> S2VT:
    return S2VT(VOCABULARY, FEATURES, embedding=8, words=6, hidden=10, max_words=8, **more)


def soft_attention(**more: Any) -> SoftAttention:
    return SoftAttention(VOCABULARY, FEATURES, words=6, hidden=10, attending=5, max_words=8, **more)


def mean_pool(**more: Any) -> MeanPool:
    return MeanPool(VOCABULARY, FEATURES, words=6, hidden=10, max_words=8, **more)


def areas(**more: Any) -> Areas:
    return Areas(VOCABULARY, FEATURES, words=6, hidden=8, max_words=8, **more)


def describer() -> Describer:
    return Describer(Backbone("toynet", size=32, words=3, width=6), 2, 2)


CASES = {
    "S2VT": _captioner(s2vt),
    "S2VT, in an order": _captioner(lambda: s2vt(order=list(range(CELLS))[::-1])),
    "SoftAttention": _captioner(soft_attention, lambda model, batch: attention_loss(model, batch, doubly=0.1)),
    "SoftAttention, supervised": Case(
        soft_attention,
        lambda: (drawn(3, CELLS, FEATURES), captions(3), drawn(3, 2, LONG, CELLS)),
        lambda model, batch: attention_loss(model, batch, supervised=0.1),
    ),
    "MeanPool, relu": _captioner(mean_pool),
    "MeanPool, tanh": _captioner(lambda: mean_pool(squash="tanh", dropout=0.5)),
    **{
        f"Areas, {form}, {feedback}": _captioner(
            lambda form=form, feedback=feedback: areas(form=form, feedback=feedback), areas_loss
        )
        for form in ("paper", "code")
        for feedback in ("marginal", "conditional", None)
    },
    "Areas, without s(w, r)": _captioner(lambda: areas(terms=("region-state",)), areas_loss),
    **{f"Looker, {kind}": _looker(kind) for kind in ("grid", "proposals", "transformers")},
    **{
        f"ActionRecogniser, {kind}, {squash}": _recogniser(kind, squash)
        for kind in ("lstm", "gru")
        for squash in ("relu", "tanh")
    },
    "ActionRecogniser, two layers": _recogniser("lstm", "tanh", 2),
    "Recurrent, with a static input": Case(
        lambda: Recurrent(FEATURES, 5, static=3),
        lambda: (drawn(2, 4, FEATURES), drawn(2, 3)),
        lambda model, pair: model(*pair).square().mean(),
    ),
    "ToyVGG": _classified(lambda: ToyVGG(3, width=16, units=8)),
    "ToyNet": _classified(lambda: ToyNet(3, 12), 32),
    "Painter": _classified(Painter, 8),
    "Together": _captioner(
        lambda: Together([mean_pool(), soft_attention()], takes=1),
        lambda model, batch: sum(captioning_loss(one, batch) for one in model.members),
    ),
    "Ready": Case(
        lambda: Ready(s2vt(), describer()),
        lambda: (drawn(3, CELLS, FEATURES), captions(3)),
        lambda model, batch: captioning_loss(model.captioner, batch),
    ),
    "toynet": _backbone("toynet", 32),
    "squeezenet1_1": _backbone("squeezenet1_1", 48),
    "mobilenet_v2": _backbone("mobilenet_v2", 32),
    "resnet50": _backbone("resnet50", 32),
    "vgg16": _backbone("vgg16", 32),
    "inception_v3": _backbone("inception_v3", 75),
}
CAPTIONERS = {"S2VT": s2vt, "SoftAttention": soft_attention, "MeanPool": mean_pool, "Areas": areas}


def clip_network() -> tuple[nn.Module, str, str, Tensor]:
    "A network for frames, the layer that recurrent layers read, one with cells, and four frames."
    torch.manual_seed(0)
    return ToyVGG(3, width=16, units=FEATURES).eval(), SOURCE, "features.9", drawn(4, 3, 112, 112)
