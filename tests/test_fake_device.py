"""Every model, explainer and score on a device that is not there: nothing mixes devices, whatever is given on the CPU.

`StandIn` computes real numbers, so that training, decoding and explanations run to their end and are compared with
those of the CPU. PyTorch's own fake tensors know CUDA's operators but no numbers: they check each model's forward
pass and the explainers that ask for no number on the way; their backward pass would need a driver.
"""

import copy
import importlib
import inspect
import pkgutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from stand_in_device import DEVICE, MixedDevices, StandIn
from small_models import (
    CAPTIONERS,
    CASES,
    FEATURES,
    TOKENS,
    areas,
    clip_network,
    descriptors,
    describer,
    drawn,
    mean_pool,
    s2vt,
    soft_attention,
)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import cgsaliency.explain
import cgsaliency.models
from cgsaliency.core.explanation import Explanation, in_pixels, merged, over_time, peak, scaled
from cgsaliency.core.geometry import Grid, View
from cgsaliency.core.records import Action, Record
from cgsaliency.core.regions import Regions, painted, squares
from cgsaliency.core.run import device_of, to_device
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.evaluate.actor import frame_peaks
from cgsaliency.evaluate.correctness import correctness_rows
from cgsaliency.evaluate.faithfulness import Regions as Removable
from cgsaliency.evaluate.faithfulness import (
    ask_descriptors,
    ask_pixels,
    curves,
    ranked,
    region_values,
)
from cgsaliency.evaluate.localise import anchored, best_window, probability_signs, temporal_pointing_rows
from cgsaliency.evaluate.nouns import noun_rows, nouns_of
from cgsaliency.evaluate.pointing import pointing_rows
from cgsaliency.explain.attention import area_attention, area_weights, attention
from cgsaliency.explain.cgvs import cgvs, evidence_of
from cgsaliency.explain.excitation import by_excitation, excitation, follow
from cgsaliency.explain.frames import bp_r, eb_r, in_frames
from cgsaliency.explain.gradient import by_gradients, grad_cam, gradient, gradient_in_time
from cgsaliency.explain.left_out import left_out
from cgsaliency.explain.maps import class_maps
from cgsaliency.explain.methods import METHODS, Watched, explained_by, fitting
from cgsaliency.explain.recurrent import evidence_in_time
from cgsaliency.explain.spacetime import spacetime
from cgsaliency.explain.word_gradient import (
    FORMS,
    integrated_gradients,
    seen_in_passes,
    word_derivatives,
    word_gradient,
)
from cgsaliency.explain.words import eb_r_caption, eb_r_words, evidence_at_mean, owed_to
from cgsaliency.models.action import ActionRecogniser, features_of
from cgsaliency.models.areas import About
from cgsaliency.models.backbone import NETWORKS
from cgsaliency.models.colours import Colours, SENTENCE, ball_on_grass, cells_of
from cgsaliency.models.decode import beam_search, greedy
from cgsaliency.models.fit import Recipe, fit

pytestmark = pytest.mark.filterwarnings("ignore")


def made(make, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return make()


def numbers(value) -> list[Tensor]:
    "The tensors of an answer, on the CPU."
    if isinstance(value, Tensor):
        return [value.detach().cpu()]
    if isinstance(value, Explanation):
        return [value.saliency]
    if isinstance(value, (tuple, list)):
        return [one for part in value for one in numbers(part)]
    return []


def alike(one, other) -> bool:
    ours, theirs = numbers(one), numbers(other)
    return len(ours) == len(theirs) > 0 and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(ours, theirs)
    )


def learned(case, model: nn.Module, device: str) -> tuple[float, list[Tensor]]:
    "The loss, and the parameters after a step of Adam."
    model = model.to(device).train(case.learns)
    torch.manual_seed(1)
    value = case.loss(model, to_device(case.batch(), torch.device(device)))
    if case.learns:
        optimiser = torch.optim.Adam(model.parameters(), 0.01)
        value.backward()
        optimiser.step()
    return float(value.detach()), [one.detach().cpu() for one in model.parameters()]


@pytest.mark.parametrize("name", CASES)
def test_models_learn_there(name):
    case = CASES[name]
    model = made(case.make)
    other = copy.deepcopy(model)
    expected, weights = learned(case, model, "cpu")
    with StandIn() as device:
        found, moved = learned(case, other, "cuda")
        assert all(one in device.labels for one in (*other.parameters(), *other.buffers()))
    assert abs(found - expected) <= 1e-5 * abs(expected) and all(
        torch.allclose(a, b, atol=1e-5) for a, b in zip(moved, weights)
    )


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.seen() is not None])
def test_captioners_speak_there(name):
    model, seen = made(CASES[name].make).eval(), CASES[name].seen()
    if name == "Together":
        seen = (seen, seen)
    said = [greedy(model, seen, 6), beam_search(model, seen, 3, 6)]
    with StandIn():
        model.to("cuda")
        there = [greedy(model, seen, 6), beam_search(model, seen, 3, 6)]  # what is seen is on the CPU
        assert all(logs.device == DEVICE for _, logs in there)
        assert [words for words, _ in there] == [words for words, _ in said] and alike(
            [logs for _, logs in there], [logs for _, logs in said]
        )


def test_a_describer_and_a_network_of_frames_see_there():
    own, (network, source, _, film) = made(describer), clip_network()
    pictures = drawn(2, 3, 32, 32)
    expected = own.cells_of(pictures), features_of(network, film, source)
    with StandIn():
        own.backbone.to("cuda")
        assert alike((own.cells_of(pictures), features_of(network.to("cuda"), film, source)), expected)


def test_a_training_runs_there_to_its_end(tmp_path, monkeypatch):
    case = CASES["MeanPool, relu"]
    values, said = case.batch()

    def history(folder: str) -> list[dict]:
        model = made(case.make)
        found = fit(
            model,
            case.loss,
            len(values),
            tmp_path / folder,
            Recipe(epochs=3, batch_size=2),
            batch=lambda picked, *_: (values[picked], said[picked]),
            progress=False,
        )
        assert device_of(model).type == folder
        return found

    expected = history("cpu")
    monkeypatch.setenv("CGSALIENCY_DEVICE", "cuda")
    with StandIn():
        found = history("cuda")
    assert len(found) == 3 and [round(one["loss"], 5) for one in found] == [round(one["loss"], 5) for one in expected]


# --- explainers -------------------------------------------------------------------------------------------------------


def on_network(explain):
    "An explainer of a network of frames, as a case."

    def ask(device: str):
        network, source, at, film = clip_network()
        return explain(network.to(device), source, at, film)

    return ask


def on_captioner(make, explain, frames: int = 1):
    "An explainer of a captioner, as a case."

    def ask(device: str):
        return explain(made(make).eval().to(device), descriptors(frames))

    return ask


def on_recogniser(explain):
    def ask(device: str):
        return explain(
            made(partial(ActionRecogniser, ("a", "b", "c"), FEATURES, 5)).eval().to(device), drawn(2, 4, FEATURES)
        )

    return ask


def recogniser_for(network: nn.Module, kind: str = "lstm") -> ActionRecogniser:
    return made(partial(ActionRecogniser, ("a", "b", "c"), FEATURES, 5, kind)).eval().to(device_of(network))


def regions() -> Regions:
    return squares(Grid.even(2, 3, 40, 40), View.whole(60, 40, 40))


def derivative(one: Tensor) -> Tensor:
    return one


def taken(pair: tuple[Tensor, object]) -> Tensor:
    return pair[1](torch.eye(3, device=pair[0].device)[:, None].expand(-1, len(pair[0]), -1))


TARGETS = {"a": 0, "c": 2}
EXPLAINERS = {
    **{
        f"{name} of {kind}": (cgvs, on_captioner(make, partial(cgvs, tokens=TOKENS, form=form)))
        for kind, make in CAPTIONERS.items()
        for name, form in (("cgvs", "word"), ("cgvs-kl", "divergence"))
    },
    "evidence_of": (
        evidence_of,
        on_captioner(s2vt, lambda captioner, seen: evidence_of(captioner, seen.values, TOKENS)),
    ),
    "spacetime": (
        spacetime,
        on_captioner(
            s2vt,
            lambda captioner, seen: [spacetime(captioner, seen, TOKENS, form).both for form in ("word", "divergence")],
            3,
        ),
    ),
    **{
        f"left_out of {kind}": (left_out, on_captioner(make, partial(left_out, tokens=TOKENS)))
        for kind, make in CAPTIONERS.items()
    },
    **{
        f"attention of {make.__name__}": (attention, on_captioner(make, partial(attention, tokens=TOKENS)))
        for make in (soft_attention, areas)
    },
    "area_weights": (
        area_weights,
        on_captioner(
            areas,
            lambda captioner, seen: [
                area_weights(captioner, seen.values, TOKENS, given) for given in ("state", "word")
            ],
        ),
    ),
    "area_attention": (
        area_attention,
        on_captioner(areas, lambda captioner, seen: area_attention(captioner, seen.values, regions(), TOKENS, side=8)),
    ),
    "about a picture": (
        area_weights,
        on_captioner(
            areas,
            lambda captioner, seen: [
                area_weights(About(captioner, seen.values.mean(0)), seen.values, TOKENS, given)
                for given in ("state", "word")
            ],
        ),
    ),
    **{
        f"word_gradient, {form}": (word_gradient, on_captioner(s2vt, partial(word_gradient, tokens=TOKENS, form=form)))
        for form in FORMS
    },
    "word_derivatives": (word_derivatives, on_captioner(soft_attention, partial(word_derivatives, tokens=TOKENS))),
    "seen_in_passes": (
        seen_in_passes,
        on_captioner(mean_pool, partial(seen_in_passes, tokens=TOKENS, seen=derivative, together=3)),
    ),
    **{
        f"integrated_gradients of {kind}": (
            integrated_gradients,
            on_captioner(make, partial(integrated_gradients, tokens=TOKENS, steps=3, baseline=drawn(FEATURES))),
        )
        for kind, make in CAPTIONERS.items()
    },
    **{
        f"eb_r_words, {contrast}, {reading}": (
            eb_r_words,
            on_captioner(mean_pool, partial(eb_r_words, tokens=TOKENS, contrast=contrast, reading=reading), 2),
        )
        for contrast in (True, False)
        for reading in ("code", "paper")
    },
    "evidence_at_mean": (
        evidence_at_mean,
        on_captioner(mean_pool, lambda captioner, seen: evidence_at_mean(captioner, seen.values, TOKENS)),
    ),
    "owed_to": (
        owed_to,
        on_captioner(mean_pool, lambda captioner, seen: owed_to(captioner, seen.values, seen.values[:1] / 2, TOKENS)),
    ),
    "eb_r_caption": (
        eb_r_caption,
        on_network(
            lambda network, source, at, film: eb_r_caption(
                network, source, made(mean_pool).eval().to(device_of(network)), film, TOKENS, at
            )
        ),
    ),
    **{
        f"excitation, {contrast}": (
            excitation,
            on_network(
                lambda network, source, at, film, contrast=contrast: excitation(network, film, TARGETS, at, contrast)
            ),
        )
        for contrast in (None, "top", "classifier.1")
    },
    "follow": (
        follow,
        on_network(
            lambda network, source, at, film: list(
                follow(network, film, [at]).evidence(torch.eye(3)[[0, 1, 2, 0]], [at]).values()
            )
        ),
    ),
    "by_excitation": (
        by_excitation,
        on_network(lambda network, source, at, film: taken(by_excitation(network, film, at))),
    ),
    "by_gradients": (
        by_gradients,
        on_network(lambda network, source, at, film: taken(by_gradients(network, film, at))),
    ),
    "class_maps": (
        class_maps,
        on_network(lambda network, source, at, film: class_maps(network, film, TARGETS, at, by_excitation, together=3)),
    ),
    "gradient": (gradient, on_network(lambda network, source, at, film: gradient(network, film, TARGETS))),
    "grad_cam": (grad_cam, on_network(lambda network, source, at, film: grad_cam(network, film, TARGETS, at))),
    "in_frames": (
        in_frames,
        on_network(
            lambda network, source, at, film: in_frames(
                network, source, film, lambda read: read[None].cpu(), at, together=3
            )
        ),
    ),
    **{
        f"eb_r, {kind}, {contrast}, {step}": (
            eb_r,
            on_network(
                lambda network, source, at, film, kind=kind, contrast=contrast, step=step: eb_r(
                    network, source, recogniser_for(network, kind), film, TARGETS, at, contrast, step, together=3
                )
            ),
        )
        for kind in ("lstm", "gru")
        for contrast, step in ((True, -1), (False, None))
    },
    "bp_r": (
        bp_r,
        on_network(lambda network, source, at, film: bp_r(network, source, recogniser_for(network), film, TARGETS, at)),
    ),
    **{
        f"evidence_in_time, {reading}": (
            evidence_in_time,
            on_recogniser(
                lambda recogniser, values, reading=reading: evidence_in_time(
                    recogniser, values, [1, 2], reading=reading
                )
            ),
        )
        for reading in ("code", "paper")
    },
    "gradient_in_time": (
        gradient_in_time,
        on_recogniser(lambda recogniser, values: gradient_in_time(recogniser, values, [1, 2])),
    ),
    "colours": (
        cgvs,
        lambda device: cgvs(
            Colours(), replace(cells_of(ball_on_grass()), values=cells_of(ball_on_grass()).values.to(device)), SENTENCE
        ),
    ),
}


@pytest.mark.parametrize("name", EXPLAINERS)
def test_explainers_explain_there(name):
    ask = EXPLAINERS[name][1]
    expected = ask("cpu")
    with StandIn() as device:
        found = ask("cuda")
        explanations = [
            one for one in (found if isinstance(found, (tuple, list)) else [found]) if isinstance(one, Explanation)
        ]
        assert not any(one.saliency in device.labels for one in explanations), "explanations are on the CPU"
        assert alike(found, expected)


@pytest.mark.parametrize("name", METHODS)
def test_methods_by_name_explain_there(name):
    kinds = [make for make in CAPTIONERS.values() if name in fitting(made(make))]
    assert kinds, "no captioner here can be explained so"
    for make in kinds:
        expected = explained_by(name, made(make).eval(), descriptors(), TOKENS, progress=lambda share: None)
        with StandIn():
            captioner = made(make).to("cuda")
            assert device_of(Watched(captioner, lambda batch: None)) == DEVICE
            found = explained_by(name, captioner, descriptors(), TOKENS, progress=lambda share: None)
            assert found.saliency.device.type == "cpu" and alike(found, expected)


def modules_of(package) -> list:
    return [importlib.import_module(f"{package.__name__}.{one.name}") for one in pkgutil.iter_modules(package.__path__)]


def test_no_model_class_is_missing():
    "Every nn.Module that is exported occurs in a case, itself or as what another one is made of or from."
    exported = [getattr(module, name) for module in modules_of(cgsaliency.models) for name in module.__all__]
    wanted = {one.__name__ for one in exported if inspect.isclass(one) and issubclass(one, nn.Module)}
    seen = {
        base.__name__
        for name, case in CASES.items()
        if name == "toynet" or not case.covers
        for part in made(case.make).modules()
        for base in type(part).__mro__
    }
    assert wanted - seen - {"HubCaptioner"} == set()  # the hub's families have a test of their own, below
    assert {f"backbone {name}" for name in NETWORKS} == {name for case in CASES.values() for name in case.covers}


def test_no_explainer_is_missing():
    "Every exported function that is given a model has a case."
    wanted = {
        getattr(module, name)
        for module in modules_of(cgsaliency.explain)
        for name in module.__all__
        if inspect.isfunction(getattr(module, name))
    }
    wanted = {
        one.__name__
        for one in wanted
        if {"captioner", "network", "recogniser"} & set(inspect.signature(one).parameters)
    }
    assert (
        wanted
        - {explain.__name__ for explain, _ in EXPLAINERS.values()}
        - {"explained_by", "fitting", "method_of", "reads_means"}
        == set()
    )


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records(toybox):
    return load_flickr30k(toybox, "train").records[:3]


def scores_of(records, device: str) -> list[str]:
    def explain(record: Record, number: int) -> Explanation:
        tokens = record.sentences[number].tokens
        return Explanation(
            drawn(len(tokens), 1, 8, 8).to(device),
            tokens,
            Grid.even(8, 8, 224, 224),
            View.central(record.width, record.height, 224),
            "by hand",
        )

    tables = [
        pointing_rows(explain, records),
        correctness_rows(explain, records[:2]),
        noun_rows(explain, records, nouns_of(records)),
    ]
    film = Record("film", "film.avi", 60, 40, actions=(Action("jump", 1.0, 2.0),))
    times = tuple(k / 4 for k in range(12))
    curve = drawn(12).sub(0.4).to(device)
    tables.append(temporal_pointing_rows(lambda record, name: [(times, curve)], [film]))
    one = replace(
        explain(records[0], 0), saliency=drawn(len(records[0].sentences[0].tokens), 12, 8, 8).to(device), times=times
    )
    points = [
        frame_peaks(one),
        peak(merged(one, slice(0, 2))),
        anchored(over_time(one)[0] - 30),
        best_window(curve, 3),
        probability_signs(curve).tolist(),
        in_pixels(scaled(one)).sum().item(),
    ]
    map_of_regions = painted(
        drawn(2, 6).to(device), Regions(regions().corners.to(device), regions().view), ("a", "b"), "by hand", {}, side=8
    )
    return [*(table.to_csv() for table in tables), *map(str, points), str(map_of_regions.saliency.tolist())]


def faithful(records, device: str) -> list[str]:
    captioner = made(s2vt).eval().to(device)
    view = View.whole(60, 40, 40)
    asks = [
        ask_descriptors(captioner, descriptors(), TOKENS),
        ask_descriptors(captioner, descriptors(), TOKENS, baseline=drawn(FEATURES), together=3),
    ]
    own = made(describer)
    own.backbone.to(device)
    asks.append(ask_pixels(captioner, own.cells_of, drawn(3, 40, 40), Removable.even(view, 2, 3), TOKENS))
    found = []
    for ask in asks:
        values = region_values(
            Explanation(drawn(1, 1, 2, 3).to(device), ("a",), ask.regions.grid, ask.regions.view, "by hand"),
            ask.regions,
        )
        found += [
            round(area, 5) for one in curves(ask, [(slice(0, 2), ranked(values, "key"))], 3) for area in one.areas
        ]
    return [str(found)]


@pytest.mark.parametrize("score", (scores_of, faithful))
def test_scores_score_there(records, score):
    expected = score(records, "cpu")
    with StandIn():
        assert score(records, "cuda") == expected


# --- what it can find -------------------------------------------------------------------------------------------------


class Forgotten(nn.Module):
    "A layer with a mask that is no buffer, and so does not move with the model."

    def __init__(self, features: int):
        super().__init__()
        self.mask = torch.ones(features)

    def forward(self, values: Tensor) -> Tensor:
        return values * self.mask


def test_a_tensor_that_stayed_behind_in_a_model_is_found():
    model = made(s2vt)
    model.embed_descriptor = nn.Sequential(Forgotten(FEATURES), model.embed_descriptor)
    model.embed_descriptor.out_features = 8
    model._read = lambda values: model.embed_descriptor(model.checked(values))
    case = CASES["S2VT"]
    case.loss(model, case.batch())
    with StandIn(), pytest.raises(MixedDevices):
        case.loss(model.to("cuda"), to_device(case.batch(), DEVICE))


def test_an_index_that_stayed_behind_in_an_explainer_is_found(monkeypatch):
    import cgsaliency.explain.cgvs as module

    monkeypatch.setattr(
        module,
        "word_loss",
        lambda log_q, words: -log_q.gather(-1, words.cpu().expand(len(log_q), -1)[..., None])[..., 0].T,
    )
    ask = EXPLAINERS["cgvs of S2VT"][1]
    ask("cpu")
    with StandIn(), pytest.raises(MixedDevices):
        ask("cuda")


def test_a_mask_that_stayed_behind_in_a_score_is_found(monkeypatch, records):
    import cgsaliency.evaluate.faithfulness as module

    def composed(picture, filler, regions, kept):
        return torch.where(
            kept[:, module.nearest_cells(regions.grid)].cpu()[:, None],
            picture.to("cuda" if there else "cpu"),
            filler[..., :40, :40].cpu(),
        )

    monkeypatch.setattr(module, "composed", composed)
    there = False
    faithful(records, "cpu")
    there = True
    with StandIn(), pytest.raises(MixedDevices):
        faithful(records, "cuda")


def refusals() -> dict:
    "What a real device refuses, and what it takes."
    here, there, places = torch.ones(3), torch.ones(3, device="cuda"), torch.tensor([0, 2])
    return {
        "a sum": (lambda: here + there, False),
        "a number": (lambda: there + torch.tensor(1.0), True),
        "a place on the CPU": (lambda: there[places], True),
        "a place on the device": (lambda: here[places.to("cuda")], False),
        "a sum into the CPU": (lambda: torch.zeros(()).add_(there.sum()), False),
        "a stack with a number": (lambda: torch.stack([there.sum(), torch.tensor(1.0)]), False),
        "a copy": (lambda: torch.zeros(3).copy_(there), True),
        "a condition": (lambda: torch.where(here > 0, there, there), False),
        "numpy": (lambda: there.numpy(), False),
        "numpy of a copy": (lambda: there.cpu().numpy(), True),
    }


@pytest.mark.parametrize(
    "what",
    (
        "a sum",
        "a number",
        "a place on the CPU",
        "a place on the device",
        "a sum into the CPU",
        "a stack with a number",
        "a copy",
        "a condition",
        "numpy",
        "numpy of a copy",
    ),
)
def test_the_stand_in_is_as_strict_as_a_device(what):
    with StandIn():
        ask, taken = refusals()[what]
        if taken:
            ask()
        else:
            with pytest.raises((MixedDevices, TypeError)):
                ask()


# --- PyTorch's own fake tensors ---------------------------------------------------------------------------------------


@pytest.fixture
def fake(monkeypatch):
    "Fake tensors; conditions on them hold, and a length is the longest there may be: neither has a number to look at."
    monkeypatch.setattr(Tensor, "__bool__", lambda one: True)
    with FakeTensorMode(allow_non_fake_inputs=False), torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
        yield


@pytest.mark.parametrize("name", CASES)
def test_models_run_forward_on_fake_tensors(name, fake):
    case = CASES[name]
    with torch.device("cuda"):
        model = made(case.make).eval()
    assert all(one.device == DEVICE for one in (*model.parameters(), *model.buffers()))
    if case.seen() is None:
        values = to_device(case.batch(), DEVICE)
        if name == "Recurrent, with a static input":
            answer = model(*values)
        elif isinstance(model, ActionRecogniser):
            answer = model.scores(values[0])
        elif name in ("SoftAttention, supervised", "Ready"):
            answer = model.log_probs(values[0], values[1][:, 0].clamp(min=0))
        else:
            answer = model(values[0] if isinstance(values, tuple) else values)
        assert answer.device == DEVICE
        return
    seen = to_device(case.seen(), DEVICE)
    state = model.begin(*((seen, seen) if name == "Together" else seen if isinstance(seen, tuple) else (seen,)))
    first, state = model.advance(state, None)
    second, state = model.advance(state, first.argmax(-1))
    assert first.device == second.device == DEVICE and all(part.device == DEVICE for part in state)
    if name != "Together":
        assert (
            model.logits(
                state if False else model.begin(*(seen if isinstance(seen, tuple) else (seen,))),
                torch.ones(2, 4, dtype=torch.long, device="cuda"),
            ).device
            == DEVICE
        )


@pytest.mark.parametrize("make", CAPTIONERS.values(), ids=CAPTIONERS)
def test_explainers_run_on_fake_tensors(make, fake):
    with torch.device("cuda"):
        captioner = made(make).eval()
    seen = descriptors()
    for found in (
        cgvs(captioner, seen, TOKENS),
        cgvs(captioner, seen, TOKENS, form="divergence"),
        left_out(captioner, seen, TOKENS),
        spacetime(captioner, descriptors(2), TOKENS).both,
    ):
        assert found.saliency.device.type == seen.values.device.type == "cpu"
    assert owed_to(captioner, seen.values, seen.values[:1], TOKENS).device.type == "cpu"


def test_fake_tensors_find_what_stayed_behind(fake):
    with torch.device("cuda"):
        model = made(s2vt)
    model.order = torch.arange(6)
    model.embed_descriptor.bias = nn.Parameter(torch.zeros(8))
    with pytest.raises(RuntimeError, match="same device"):
        model.begin(drawn(2, 6, FEATURES).to("cuda"))


# --- captioners of the hub --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ("blip", "git", "vit-gpt2", "smolvlm", "llava"))
def test_the_hubs_captioners_are_explained_there(family):
    test_hub = pytest.importorskip("test_hub", reason="transformers is not installed: it is the extra [hub]")
    from PIL import Image

    captioner = test_hub.FAMILIES[family]()
    picture = Image.fromarray((drawn(12, 16, 3) * 255).byte().numpy()).resize((160, 120))
    seen = captioner.describe([picture])
    tokens = test_hub.TOKENS[:3]
    def asked():
        return [
            cgvs(captioner, seen, tokens),
            attention(captioner, seen, tokens),
            word_gradient(captioner, seen, tokens),
        ]
    expected = asked()
    with StandIn():
        captioner.to("cuda")
        assert captioner.describe([picture]).values.device == DEVICE
        assert alike(asked(), expected)
