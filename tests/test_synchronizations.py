"""How often a program waits for the device: inner loops ask it for no number.

Counted on the stand-in device. Each bound is the same for more layers, words, frames or steps, save beam search, which
has to know at each step whether all sentences are over.
"""

from collections import Counter
from functools import partial

import pytest
import torch
from small_models import (
    CASES,
    FEATURES,
    TOKENS,
    areas,
    clip_network,
    descriptors,
    drawn,
    mean_pool,
    s2vt,
    soft_attention,
)
from stand_in_device import StandIn
from test_fake_device import made, recogniser_for
from torch import nn

from cgsaliency.core.prefetch import Host
from cgsaliency.core.run import device_of, to_device
from cgsaliency.evaluate.faithfulness import ask_descriptors
from cgsaliency.explain.attention import attention
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.explain.excitation import excitation, follow
from cgsaliency.explain.frames import eb_r
from cgsaliency.explain.left_out import left_out
from cgsaliency.explain.recurrent import evidence_in_time
from cgsaliency.explain.word_gradient import integrated_gradients, word_gradient
from cgsaliency.explain.words import eb_r_words, owed_to
from cgsaliency.models.action import ActionRecogniser
from cgsaliency.models.decode import beam_search

pytestmark = pytest.mark.filterwarnings("ignore")
LONG = "a man in red shirt plays".split()


def waits(run, *given) -> Counter:
    "What is waited for, by kind, when the function runs on the device; what it is given is made ready before."
    with StandIn() as device:
        ready = [one() for one in given]
        device.waits.clear()
        run(*ready)
        return device.waits.copy()


def there(make):
    return lambda: made(make).eval().to("cuda")


def vgg(convolutions: int, linear: int) -> nn.Module:
    "A network in the manner of VGG with so many layers of each kind."
    torch.manual_seed(0)
    layers, channels = [], 3
    for _ in range(convolutions):
        layers += [nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU()]
        channels = 4
    head = [part for _ in range(linear - 1) for part in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), *head, nn.Linear(64, 3)).eval()


EXPLAINERS = {  # what is asked about n words over frames, and how often it may wait
    "cgvs": (s2vt, lambda captioner, seen, tokens: cgvs(captioner, seen, tokens), 1),
    "cgvs in small batches": (s2vt, lambda captioner, seen, tokens: cgvs(captioner, seen, tokens, passes=2), 1),
    "cgvs-kl": (soft_attention, lambda captioner, seen, tokens: cgvs(captioner, seen, tokens, "divergence"), 1),
    "cgvs of pairs": (areas, lambda captioner, seen, tokens: cgvs(captioner, seen, tokens), 2),
    "left out": (s2vt, lambda captioner, seen, tokens: left_out(captioner, seen, tokens, passes=2), 1),
    "attention": (soft_attention, lambda captioner, seen, tokens: attention(captioner, seen, tokens), 2),
    "gradient": (s2vt, lambda captioner, seen, tokens: word_gradient(captioner, seen, tokens, together=2), 3),
    "integrated gradients": (
        s2vt,
        lambda captioner, seen, tokens: integrated_gradients(captioner, seen, tokens, steps=4, together=3),
        3,
    ),
    "EB-R of words": (
        mean_pool,
        lambda captioner, seen, tokens: eb_r_words(captioner, seen, tokens, contrast=False),
        2,
    ),
    "cEB-R of words": (mean_pool, lambda captioner, seen, tokens: eb_r_words(captioner, seen, tokens), 2),
    "cEB-R of words as written": (
        mean_pool,
        lambda captioner, seen, tokens: eb_r_words(captioner, seen, tokens, reading="paper"),
        2,
    ),
    "what is owed": (
        mean_pool,
        lambda captioner, seen, tokens: owed_to(captioner, seen.values, seen.values[:1], tokens),
        1,
    ),
}


@pytest.mark.parametrize("name", EXPLAINERS)
def test_explaining_many_words_and_frames_waits_no_more_often_than_few(name):
    make, explain, most = EXPLAINERS[name]
    few, many = (
        waits(lambda captioner: explain(captioner, descriptors(frames), tokens), there(make))
        for frames, tokens in ((1, LONG[:2]), (4, LONG))
    )
    assert few == many, (few, many)
    assert many.total() <= most, many


@pytest.mark.parametrize("contrast, most", [(None, 3), ("top", 6)])
def test_excitation_backprop_waits_as_often_in_a_deep_network(contrast, most):
    def explain(network):
        return excitation(network, drawn(2, 3, 8, 8), {"a": 0, "c": 2}, "0", contrast)
    few, many = (waits(explain, lambda: vgg(*size).to("cuda")) for size in ((1, 1), (6, 4)))
    assert few == many and many.total() <= most, (few, many)


def test_what_was_lost_is_asked_for_once():
    def explain(network: nn.Module) -> None:
        followed = follow(network, drawn(1, 3, 8, 8), ["0"])
        before = device.waits.copy()
        followed.evidence(torch.eye(3)[:1], ["0"])
        assert device.waits == before  # on the way down nothing is
        assert sum(followed.run.lost.values()) >= 0 and (device.waits - before).total() == 1

    with StandIn() as device:
        explain(vgg(4, 3).to("cuda"))


@pytest.mark.parametrize("reading", ("code", "paper"))
def test_evidence_in_time_waits_as_often_for_long_clips(reading):
    make = partial(ActionRecogniser, ("a", "b", "c"), FEATURES, 5)
    few, many = (
        waits(lambda model: evidence_in_time(model, drawn(2, steps, FEATURES), [0, 2], reading=reading), there(make))
        for steps in (2, 12)
    )
    assert few == many and many.total() <= 2, (few, many)


def test_evidence_down_the_frames_waits_for_chunks_and_classes_alone():
    network, source, at, film = clip_network()

    def explain(network: nn.Module, targets: dict[str, int], together: int) -> None:
        eb_r(network, source, recogniser_for(network), film, targets, at, together=together)

    counts = {
        (len(targets), together): waits(
            partial(explain, targets=targets, together=together), lambda: network.to("cuda")
        ).total()
        for targets in ({"a": 0}, {"a": 0, "c": 2})
        for together in (2, 4)
    }
    assert counts[1, 4] <= 4 and counts[1, 2] - counts[1, 4] <= 3 and counts[2, 4] - counts[1, 4] <= 3, counts


def test_beam_search_waits_once_a_step():
    def speak(captioner: nn.Module) -> None:
        with torch.no_grad():
            captioner.to_words.bias[0] = -100.0  # no sentence ends early
        beam_search(captioner, drawn(3, 6, FEATURES), 3, steps)

    counts = {}
    for steps in (3, 6):
        counts[steps] = waits(speak, there(s2vt)).total()
    assert counts[6] - counts[3] == 3 and counts[3] <= 3 + 2, counts


def test_faithfulness_waits_once_a_batch():
    def ask(captioner: nn.Module, masks: int) -> None:
        kept = torch.arange(6) < 1 + torch.arange(masks)[:, None] % 5
        ask_descriptors(captioner, descriptors(), TOKENS, together=64)(kept)

    few, many = (waits(partial(ask, masks=masks), there(s2vt)) for masks in (2, 5))
    assert few == many and many.total() <= 1, (few, many)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.learns])
def test_a_training_step_waits_for_nothing(name):
    case = CASES[name]

    def step(model: nn.Module) -> None:
        batch = case.batch()
        if case.seen() is not None or name == "SoftAttention, supervised" or name == "Ready":
            batch = (batch[0], Host(batch[1]), *batch[2:])  # as trainings give captions
        loss = case.loss(model, to_device(batch, device_of(model)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def ready() -> nn.Module:
        nonlocal optimiser
        model = made(case.make).train().to("cuda")
        optimiser = torch.optim.Adam(model.parameters(), 0.01, foreach=True)
        return model

    optimiser = None
    found = waits(step, ready)
    assert found.total() <= ALLOWED.get(name.split(",")[0], 0), found


ALLOWED = {"Areas": 1, "Looker": 1}  # each image must have a region: said before the loss is computed
