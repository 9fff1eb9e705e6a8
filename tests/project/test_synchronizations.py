"""How often a program waits for the device, counted on the simulated device: inner loops read no value.

Each number is the same for more layers, words, frames or steps, except in beam search, which must know after each step
whether all captions have ended.
"""

from collections import Counter
from functools import partial

import pytest
import torch
from torch import nn

from cgsaliency.core.prefetch import HostTensor
from cgsaliency.core.runtime import device_of, to_device
from cgsaliency.evaluate.faithfulness import descriptor_scorer
from cgsaliency.explain.attention import attention
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.explain.cnn_rnn import eb_r
from cgsaliency.explain.excitation import excitation_backprop, trace_forward
from cgsaliency.explain.excitation_captions import eb_r_words, log_prob_gain
from cgsaliency.explain.excitation_rnn import temporal_evidence
from cgsaliency.explain.leave_one_out import leave_one_out
from cgsaliency.explain.word_gradient import integrated_gradients, word_gradient
from cgsaliency.models.cnn_lstm import ActionLSTM
from cgsaliency.models.decode import beam_search
from explainer_cases import build, recognizer_for
from small_models import (
    CASES,
    FEATURES,
    TOKENS,
    areas,
    clip_network,
    descriptors,
    mean_pool,
    random_tensor,
    s2vt,
    soft_attention,
)
from stand_in_device import StandIn

pytestmark = pytest.mark.filterwarnings("ignore")
LONG_CAPTION = "a man in red shirt plays".split()


def count_waits(function, *make_arguments) -> Counter:
    "Count by kind what a function waits for on the device; its arguments are made before counting."
    with StandIn() as device:
        arguments = [make() for make in make_arguments]
        device.waits.clear()
        function(*arguments)
        return device.waits.copy()


def on_device(make):
    return lambda: build(make).eval().to("cuda")


def small_vgg(num_conv: int, num_linear: int) -> nn.Module:
    "Return a network like VGG with these numbers of layers."
    torch.manual_seed(0)
    layers, channels = [], 3
    for _ in range(num_conv):
        layers += [nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU()]
        channels = 4
    head = [module for _ in range(num_linear - 1) for module in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), *head, nn.Linear(64, 3)).eval()


EXPLAIN_FUNCTIONS = {  # captioner, explainer, and how often it may wait
    "cgvs": (s2vt, lambda captioner, inputs, tokens: cgvs(captioner, inputs, tokens), 1),
    "cgvs in small batches": (s2vt, lambda captioner, inputs, tokens: cgvs(captioner, inputs, tokens, batch_size=2), 1),
    "cgvs-kl": (soft_attention, lambda captioner, inputs, tokens: cgvs(captioner, inputs, tokens, "kl"), 1),
    "cgvs of pairs": (areas, lambda captioner, inputs, tokens: cgvs(captioner, inputs, tokens), 2),
    "leave one out": (
        s2vt,
        lambda captioner, inputs, tokens: leave_one_out(captioner, inputs, tokens, batch_size=2),
        1,
    ),
    "attention": (soft_attention, lambda captioner, inputs, tokens: attention(captioner, inputs, tokens), 2),
    "gradient": (s2vt, lambda captioner, inputs, tokens: word_gradient(captioner, inputs, tokens, batch_size=2), 3),
    "integrated gradients": (
        s2vt,
        lambda captioner, inputs, tokens: integrated_gradients(captioner, inputs, tokens, steps=4, batch_size=3),
        3,
    ),
    "EB-R of words": (
        mean_pool,
        lambda captioner, inputs, tokens: eb_r_words(captioner, inputs, tokens, contrastive=False),
        2,
    ),
    "cEB-R of words": (mean_pool, lambda captioner, inputs, tokens: eb_r_words(captioner, inputs, tokens), 2),
    "cEB-R of words, variant paper": (
        mean_pool,
        lambda captioner, inputs, tokens: eb_r_words(captioner, inputs, tokens, variant="paper"),
        2,
    ),
    "log-probability gain": (
        mean_pool,
        lambda captioner, inputs, tokens: log_prob_gain(captioner, inputs.features, inputs.features[:1], tokens),
        1,
    ),
}


@pytest.mark.parametrize("name", EXPLAIN_FUNCTIONS)
def test_waits_do_not_grow_with_words_and_frames(name):
    make, explain, max_waits = EXPLAIN_FUNCTIONS[name]
    few, many = (
        count_waits(lambda captioner: explain(captioner, descriptors(num_frames), tokens), on_device(make))
        for num_frames, tokens in ((1, LONG_CAPTION[:2]), (4, LONG_CAPTION))
    )
    assert few == many, (few, many)
    assert many.total() <= max_waits, many


@pytest.mark.parametrize("contrast, max_waits", [(None, 3), ("top", 6)])
def test_waits_of_excitation_backprop_do_not_grow_with_layers(contrast, max_waits):
    def explain(network):
        return excitation_backprop(network, random_tensor(2, 3, 8, 8), {"a": 0, "c": 2}, "0", contrast)

    few, many = (count_waits(explain, lambda: small_vgg(*size).to("cuda")) for size in ((1, 1), (6, 4)))
    assert few == many and many.total() <= max_waits, (few, many)


def test_lost_probability_is_read_once():
    def explain(network: nn.Module) -> None:
        forward_trace = trace_forward(network, random_tensor(1, 3, 8, 8), ["0"])
        before = device.waits.copy()
        forward_trace.backprop(torch.eye(3)[:1], ["0"])
        assert device.waits == before  # the backward pass does not wait
        assert sum(forward_trace.state.lost_mwp.values()) >= 0 and (device.waits - before).total() == 1

    with StandIn() as device:
        explain(small_vgg(4, 3).to("cuda"))


@pytest.mark.parametrize("variant", ("code", "paper"))
def test_waits_of_temporal_evidence_do_not_grow_with_steps(variant):
    make = partial(ActionLSTM, ("a", "b", "c"), FEATURES, 5)
    few, many = (
        count_waits(
            lambda model: temporal_evidence(model, random_tensor(2, num_steps, FEATURES), [0, 2], variant=variant),
            on_device(make),
        )
        for num_steps in (2, 12)
    )
    assert few == many and many.total() <= 2, (few, many)


def test_waits_of_eb_r_grow_with_chunks_and_classes_only():
    network, start_layer, target_layer, video = clip_network()

    def explain(network: nn.Module, targets: dict[str, int], batch_size: int) -> None:
        eb_r(network, start_layer, recognizer_for(network), video, targets, target_layer, batch_size=batch_size)

    counts = {
        (len(targets), batch_size): (
            count_waits(partial(explain, targets=targets, batch_size=batch_size), lambda: network.to("cuda")).total()
        )
        for targets in ({"a": 0}, {"a": 0, "c": 2})
        for batch_size in (2, 4)
    }
    assert counts[1, 4] <= 4 and counts[1, 2] - counts[1, 4] <= 3 and counts[2, 4] - counts[1, 4] <= 3, counts


def test_beam_search_waits_once_per_step():
    def search(captioner: nn.Module) -> None:
        with torch.no_grad():
            captioner.to_logits.bias[0] = -100.0  # no caption ends early
        beam_search(captioner, random_tensor(3, 6, FEATURES), 3, num_steps)

    counts = {}
    for num_steps in (3, 6):
        counts[num_steps] = count_waits(search, on_device(s2vt)).total()
    assert counts[6] - counts[3] == 3 and counts[3] <= 3 + 2, counts


def test_faithfulness_waits_once_per_batch():
    def score(captioner: nn.Module, num_masks: int) -> None:
        keep_masks = torch.arange(6) < 1 + torch.arange(num_masks)[:, None] % 5
        descriptor_scorer(captioner, descriptors(), TOKENS, batch_size=64)(keep_masks)

    few, many = (count_waits(partial(score, num_masks=num_masks), on_device(s2vt)) for num_masks in (2, 5))
    assert few == many and many.total() <= 1, (few, many)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.trainable])
def test_a_training_step_does_not_wait(name):
    case = CASES[name]

    def step(model: nn.Module) -> None:
        batch = case.batch()
        if case.inputs() is not None or name == "SoftAttention, supervised" or name == "CaptioningPipeline":
            batch = (batch[0], HostTensor(batch[1]), *batch[2:])  # as trainings pass captions
        loss = case.loss(model, to_device(batch, device_of(model)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def make_model() -> nn.Module:
        nonlocal optimizer
        model = build(case.make).train().to("cuda")
        optimizer = torch.optim.Adam(model.parameters(), 0.01, foreach=True)
        return model

    optimizer = None
    wait_counts = count_waits(step, make_model)
    assert wait_counts.total() <= ALLOWED_WAITS.get(name.split(",")[0], 0), wait_counts


ALLOWED_WAITS = {
    "AreasOfAttention": 1,
    "RegionCaptioner": 1,
}  # each image must have a region: this is tested before the loss is computed
