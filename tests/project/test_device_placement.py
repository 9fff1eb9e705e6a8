"""Every model, explainer and score on a simulated device: no operation mixes devices, although inputs are on the CPU.

`StandIn` computes real values, so that training, decoding and explanations run to their end and are compared with
those on the CPU. PyTorch's fake tensors know the operators of CUDA but have no values: they test each model's forward
pass and the explainers that read no value; their backward pass would need a driver.
"""

import copy
import importlib
import inspect
import pkgutil
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import cgsaliency.explain
import cgsaliency.features
import cgsaliency.models
import cgsaliency.toy
from cgsaliency.core.explanation import Explanation
from cgsaliency.core.geometry import CellGrid, ImageCrop
from cgsaliency.core.records import ActionInterval, Sample
from cgsaliency.core.regions import QuadRegions, paint_regions
from cgsaliency.core.runtime import device_of, to_device
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.evaluate.actor_pointing import frame_peaks
from cgsaliency.evaluate.attention_correctness import correctness_rows
from cgsaliency.evaluate.faithfulness import RegionGrid as RegionGrid
from cgsaliency.evaluate.faithfulness import (
    deletion_insertion_curves,
    descriptor_scorer,
    pixel_scorer,
    rank_regions,
    region_evidence,
)
from cgsaliency.evaluate.noun_correctness import find_nouns, noun_rows
from cgsaliency.evaluate.pointing_game import pointing_rows
from cgsaliency.evaluate.temporal_localization import (
    anchor_interval,
    max_sum_window,
    probability_signs,
    temporal_pointing_rows,
)
from cgsaliency.explain.attention import attention
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.explain.cgvs_video import spacetime
from cgsaliency.explain.excitation_captions import log_prob_gain
from cgsaliency.explain.leave_one_out import leave_one_out
from cgsaliency.explain.registry import EXPLAINERS, ProgressCaptioner, compatible_explainers, explain
from cgsaliency.explain.word_gradient import (
    word_gradient,
)
from cgsaliency.features.backbone import BACKBONES
from cgsaliency.features.frame_extractor import extract_layer_features
from cgsaliency.models.cnn_lstm import ActionLSTM
from cgsaliency.models.decode import beam_search, greedy_search
from cgsaliency.train.loop import TrainConfig, train
from explainer_cases import EXPLAINER_CASES, build, small_regions, tensors_of
from small_models import (
    CAPTIONERS,
    CASES,
    FEATURES,
    TOKENS,
    clip_network,
    descriptors,
    extractor,
    random_tensor,
    s2vt,
)
from stand_in_device import DEVICE, MixedDevices, StandIn

pytestmark = pytest.mark.filterwarnings("ignore")


def all_close(result, expected) -> bool:
    tensors, expected_tensors = tensors_of(result), tensors_of(expected)
    return len(tensors) == len(expected_tensors) > 0 and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(tensors, expected_tensors)
    )


def training_step(case, model: nn.Module, device: str) -> tuple[float, list[Tensor]]:
    "The loss, and the parameters after a step of Adam."
    model = model.to(device).train(case.trainable)
    torch.manual_seed(1)
    loss = case.loss(model, to_device(case.batch(), torch.device(device)))
    if case.trainable:
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        loss.backward()
        optimizer.step()
    return float(loss.detach()), [parameter.detach().cpu() for parameter in model.parameters()]


@pytest.mark.parametrize("name", CASES)
def test_training_step_on_the_device_equals_that_on_the_cpu(name):
    case = CASES[name]
    model = build(case.make)
    copied = copy.deepcopy(model)
    expected_loss, expected_parameters = training_step(case, model, "cpu")
    with StandIn() as device:
        loss, parameters = training_step(case, copied, "cuda")
        assert all(tensor in device.labels for tensor in (*copied.parameters(), *copied.buffers()))
    assert abs(loss - expected_loss) <= 1e-5 * abs(expected_loss) and all(
        torch.allclose(a, b, atol=1e-5) for a, b in zip(parameters, expected_parameters)
    )


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.inputs() is not None])
def test_captions_on_the_device_equal_those_on_the_cpu(name):
    model, inputs = build(CASES[name].make).eval(), CASES[name].inputs()
    if name == "Ensemble":
        inputs = (inputs, inputs)
    expected = [greedy_search(model, inputs, 6), beam_search(model, inputs, 3, 6)]
    with StandIn():
        model.to("cuda")
        searches = [greedy_search(model, inputs, 6), beam_search(model, inputs, 3, 6)]  # with inputs on the CPU
        assert all(log_probs.device == DEVICE for _, log_probs in searches)
        assert [token_ids for token_ids, _ in searches] == [token_ids for token_ids, _ in expected] and all_close(
            [log_probs for _, log_probs in searches], [log_probs for _, log_probs in expected]
        )


def test_features_on_the_device_equal_those_on_the_cpu():
    small_extractor, (network, start_layer, _, video) = build(extractor), clip_network()
    images = random_tensor(2, 3, 32, 32)
    expected = small_extractor.extract(images), extract_layer_features(network, video, start_layer)
    with StandIn():
        small_extractor.backbone.to("cuda")
        assert all_close(
            (small_extractor.extract(images), extract_layer_features(network.to("cuda"), video, start_layer)), expected
        )


def test_a_training_runs_to_its_end_on_the_device(tmp_path, monkeypatch):
    case = CASES["MeanPoolCaptioner, relu"]
    features, captions = case.batch()

    def history(folder: str) -> list[dict]:
        model = build(case.make)
        epochs = train(
            model,
            case.loss,
            len(features),
            tmp_path / folder,
            TrainConfig(epochs=3, batch_size=2),
            make_batch=lambda indices, *_: (features[indices], captions[indices]),
            progress=False,
        )
        assert device_of(model).type == folder
        return epochs

    expected = history("cpu")
    monkeypatch.setenv("CGSALIENCY_DEVICE", "cuda")
    with StandIn():
        epochs = history("cuda")
    assert len(epochs) == 3 and [round(epoch["loss"], 5) for epoch in epochs] == [
        round(epoch["loss"], 5) for epoch in expected
    ]


@pytest.mark.parametrize("name", EXPLAINER_CASES)
def test_explainers_on_the_device_equal_those_on_the_cpu(name):
    run = EXPLAINER_CASES[name][1]
    expected = run("cpu")
    with StandIn() as device:
        result = run("cuda")
        explanations = [
            explanation
            for explanation in (result if isinstance(result, (tuple, list)) else [result])
            if isinstance(explanation, Explanation)
        ]
        assert not any(explanation.saliency in device.labels for explanation in explanations), (
            "explanations are on the CPU"
        )
        assert all_close(result, expected)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_registered_explainers_on_the_device_equal_those_on_the_cpu(name):
    makers = [make for make in CAPTIONERS.values() if name in compatible_explainers(build(make))]
    assert makers, "no captioner here can be explained so"
    for make in makers:
        expected = explain(name, build(make).eval(), descriptors(), TOKENS, progress=lambda share: None)
        with StandIn():
            captioner = build(make).to("cuda")
            assert device_of(ProgressCaptioner(captioner, lambda batch: None)) == DEVICE
            explanation = explain(name, captioner, descriptors(), TOKENS, progress=lambda share: None)
            assert explanation.saliency.device.type == "cpu" and all_close(explanation, expected)


def submodules(package) -> list:
    return [
        importlib.import_module(f"{package.__name__}.{info.name}") for info in pkgutil.iter_modules(package.__path__)
    ]


def test_every_model_class_has_a_case():
    "Every exported nn.Module occurs in a case: as the model, as a part of it, or as a base class."
    packages = (cgsaliency.features, cgsaliency.models, cgsaliency.toy)
    modules = [module for package in packages for module in submodules(package)]
    exported = [getattr(module, name) for module in modules for name in module.__all__]
    class_names = {
        exported_class.__name__
        for exported_class in exported
        if inspect.isclass(exported_class) and issubclass(exported_class, nn.Module)
    }
    tested = {
        base.__name__
        for name, case in CASES.items()
        if name == "toynet" or not case.covers
        for module_ in build(case.make).modules()
        for base in type(module_).__mro__
    }
    assert class_names - tested - {"HubCaptioner"} == set()  # the families of the hub are tested below
    assert {f"backbone {name}" for name in BACKBONES} == {name for case in CASES.values() for name in case.covers}


def test_every_explainer_has_a_case():
    "Every exported function with a model as a parameter has a case."
    functions = {
        getattr(module, name)
        for module in submodules(cgsaliency.explain)
        for name in module.__all__
        if inspect.isfunction(getattr(module, name))
    }
    functions = {
        function.__name__
        for function in functions
        if {"captioner", "network", "recognizer", "classifier"} & set(inspect.signature(function).parameters)
    }
    assert (
        functions
        - {case_function.__name__ for case_function, _ in EXPLAINER_CASES.values()}
        - {"explain", "compatible_explainers", "get_explainer", "uses_frame_means"}
        == set()
    )


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples(toybox):
    return load_flickr30k(toybox, "train").samples[:3]


def evaluation_scores(samples, device: str) -> list[str]:
    def explain(sample: Sample, caption_index: int) -> Explanation:
        tokens = sample.captions[caption_index].tokens
        return Explanation(
            random_tensor(len(tokens), 1, 8, 8).to(device),
            tokens,
            CellGrid.uniform(8, 8, 224, 224),
            ImageCrop.center_crop(sample.width, sample.height, 224),
            "by hand",
        )

    tables = [
        pointing_rows(explain, samples),
        correctness_rows(explain, samples[:2]),
        noun_rows(explain, samples, find_nouns(samples)),
    ]
    video = Sample("video", "video.avi", 60, 40, actions=(ActionInterval("jump", 1.0, 2.0),))
    times = tuple(k / 4 for k in range(12))
    curve = random_tensor(12).sub(0.4).to(device)
    tables.append(temporal_pointing_rows(lambda sample, name: [(times, curve)], [video]))
    video_explanation = replace(
        explain(samples[0], 0),
        saliency=random_tensor(len(samples[0].captions[0].tokens), 12, 8, 8).to(device),
        times=times,
    )
    points = [
        frame_peaks(video_explanation),
        video_explanation.merge(slice(0, 2)).peak(),
        anchor_interval(video_explanation.frame_evidence()[0] - 30),
        max_sum_window(curve, 3),
        probability_signs(curve).tolist(),
        video_explanation.min_max().upsample().sum().item(),
    ]
    region_map = paint_regions(
        random_tensor(2, 6).to(device),
        QuadRegions(small_regions().corners.to(device), small_regions().view),
        ("a", "b"),
        "by hand",
        {},
        side=8,
    )
    return [*(table.to_csv() for table in tables), *map(str, points), str(region_map.saliency.tolist())]


def faithfulness_scores(samples, device: str) -> list[str]:
    captioner = build(s2vt).eval().to(device)
    crop = ImageCrop.full(60, 40, 40)
    scorers = [
        descriptor_scorer(captioner, descriptors(), TOKENS),
        descriptor_scorer(captioner, descriptors(), TOKENS, baseline=random_tensor(FEATURES), batch_size=3),
    ]
    small_extractor = build(extractor)
    small_extractor.backbone.to(device)
    scorers.append(
        pixel_scorer(
            captioner, small_extractor.extract, random_tensor(3, 40, 40), RegionGrid.uniform(crop, 2, 3), TOKENS
        )
    )
    areas = []
    for scorer in scorers:
        evidence = region_evidence(
            Explanation(
                random_tensor(1, 1, 2, 3).to(device), ("a",), scorer.regions.grid, scorer.regions.view, "by hand"
            ),
            scorer.regions,
        )
        areas += [
            round(area, 5)
            for curve in deletion_insertion_curves(scorer, [(slice(0, 2), rank_regions(evidence, "key"))], 3)
            for area in curve.auc
        ]
    return [str(areas)]


@pytest.mark.parametrize("score_fn", (evaluation_scores, faithfulness_scores))
def test_scores_on_the_device_equal_those_on_the_cpu(samples, score_fn):
    expected = score_fn(samples, "cpu")
    with StandIn():
        assert score_fn(samples, "cuda") == expected


# --- errors that the simulated device detects -------------------------------------------------------------------------


class UnregisteredMask(nn.Module):
    "A layer with a mask that is not a buffer, and so does not move with the model."

    def __init__(self, features: int):
        super().__init__()
        self.mask = torch.ones(features)

    def forward(self, values: Tensor) -> Tensor:
        return values * self.mask


def test_a_tensor_of_a_model_left_on_the_cpu_is_detected():
    model = build(s2vt)
    model.embed_descriptor = nn.Sequential(UnregisteredMask(FEATURES), model.embed_descriptor)
    model.embed_descriptor.out_features = 8
    model._embed_descriptors = lambda features: model.embed_descriptor(model.check_features(features))
    case = CASES["S2VT"]
    case.loss(model, case.batch())
    with StandIn(), pytest.raises(MixedDevices):
        case.loss(model.to("cuda"), to_device(case.batch(), DEVICE))


def test_an_index_of_an_explainer_left_on_the_cpu_is_detected(monkeypatch):
    import cgsaliency.explain.cgvs as module

    monkeypatch.setattr(
        module,
        "word_loss",
        lambda log_q, words: -log_q.gather(-1, words.cpu().expand(len(log_q), -1)[..., None])[..., 0].T,
    )
    run = EXPLAINER_CASES["cgvs of S2VT"][1]
    run("cpu")
    with StandIn(), pytest.raises(MixedDevices):
        run("cuda")


def test_a_mask_of_a_score_left_on_the_cpu_is_detected(monkeypatch, samples):
    import cgsaliency.evaluate.faithfulness as module

    def compose_on_cpu(image, filler, small_regions, keep_masks):
        return torch.where(
            keep_masks[:, module.nearest_cells(small_regions.grid)].cpu()[:, None],
            image.to("cuda" if on_device else "cpu"),
            filler[..., :40, :40].cpu(),
        )

    monkeypatch.setattr(module, "compose_image", compose_on_cpu)
    on_device = False
    faithfulness_scores(samples, "cpu")
    on_device = True
    with StandIn(), pytest.raises(MixedDevices):
        faithfulness_scores(samples, "cuda")


def operations() -> dict:
    "Return operations, and whether a real device accepts them."
    on_cpu, on_device, indices = torch.ones(3), torch.ones(3, device="cuda"), torch.tensor([0, 2])
    return {
        "a sum": (lambda: on_cpu + on_device, False),
        "a scalar": (lambda: on_device + torch.tensor(1.0), True),
        "an index on the CPU": (lambda: on_device[indices], True),
        "an index on the device": (lambda: on_cpu[indices.to("cuda")], False),
        "a sum into the CPU": (lambda: torch.zeros(()).add_(on_device.sum()), False),
        "a stack with a scalar": (lambda: torch.stack([on_device.sum(), torch.tensor(1.0)]), False),
        "a copy": (lambda: torch.zeros(3).copy_(on_device), True),
        "a condition": (lambda: torch.where(on_cpu > 0, on_device, on_device), False),
        "numpy": (lambda: on_device.numpy(), False),
        "numpy of a copy": (lambda: on_device.cpu().numpy(), True),
    }


@pytest.mark.parametrize(
    "name",
    (
        "a sum",
        "a scalar",
        "an index on the CPU",
        "an index on the device",
        "a sum into the CPU",
        "a stack with a scalar",
        "a copy",
        "a condition",
        "numpy",
        "numpy of a copy",
    ),
)
def test_the_stand_in_rejects_what_a_device_rejects(name):
    with StandIn():
        operation, accepted = operations()[name]
        if accepted:
            operation()
        else:
            with pytest.raises((MixedDevices, TypeError)):
                operation()


# --- PyTorch's own fake tensors ---------------------------------------------------------------------------------------


@pytest.fixture
def fake_tensors(monkeypatch):
    "Fake tensors, without values: conditions on them are true, and lengths are the largest possible."
    monkeypatch.setattr(Tensor, "__bool__", lambda tensor: True)
    with FakeTensorMode(allow_non_fake_inputs=False), torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
        yield


@pytest.mark.parametrize("name", CASES)
def test_models_run_forward_on_fake_tensors(name, fake_tensors):
    case = CASES[name]
    with torch.device("cuda"):
        model = build(case.make).eval()
    assert all(tensor.device == DEVICE for tensor in (*model.parameters(), *model.buffers()))
    if case.inputs() is None:
        batch = to_device(case.batch(), DEVICE)
        if name == "TracedRNN, with a context":
            output = model(*batch)
        elif isinstance(model, ActionLSTM):
            output = model.scores(batch[0])
        elif name in ("SoftAttention, supervised", "CaptioningPipeline"):
            output = model.log_probs(batch[0], batch[1][:, 0].clamp(min=0))
        else:
            output = model(batch[0] if isinstance(batch, tuple) else batch)
        assert output.device == DEVICE
        return
    inputs = to_device(case.inputs(), DEVICE)
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    state = model.init_state(*(2 * inputs if name == "Ensemble" else inputs))
    first, state = model.step(state, None)
    second, state = model.step(state, first.argmax(-1))
    state_devices = set()
    state.map(lambda tensor: state_devices.add(tensor.device))
    assert first.device == second.device == DEVICE and state_devices == {DEVICE}
    if name != "Ensemble":
        token_ids = torch.ones(2, 4, dtype=torch.long, device="cuda")
        assert model.logits(model.init_state(*inputs), token_ids).device == DEVICE


@pytest.mark.parametrize("make", CAPTIONERS.values(), ids=CAPTIONERS)
def test_explainers_run_on_fake_tensors(make, fake_tensors):
    with torch.device("cuda"):
        captioner = build(make).eval()
    inputs = descriptors()
    for explanation in (
        cgvs(captioner, inputs, TOKENS),
        cgvs(captioner, inputs, TOKENS, loss="kl"),
        leave_one_out(captioner, inputs, TOKENS),
        spacetime(captioner, descriptors(2), TOKENS).joint,
    ):
        assert explanation.saliency.device.type == inputs.features.device.type == "cpu"
    assert log_prob_gain(captioner, inputs.features, inputs.features[:1], TOKENS).device.type == "cpu"


def test_fake_tensors_detect_tensors_left_on_the_cpu(fake_tensors):
    with torch.device("cuda"):
        model = build(s2vt)
    model.scan_indices = torch.arange(6)
    model.embed_descriptor.bias = nn.Parameter(torch.zeros(8))
    with pytest.raises(RuntimeError, match="same device"):
        model.init_state(random_tensor(2, 6, FEATURES).to("cuda"))


# --- captioners of the hub --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ("blip", "git", "vit-gpt2", "smolvlm", "llava"))
def test_hub_captioners_are_explained_on_the_device(family):
    pytest.importorskip("transformers", reason="transformers is not installed: it is the extra [hub]")
    from PIL import Image

    import hub_models

    captioner = hub_models.FAMILIES[family]()
    image = Image.fromarray((random_tensor(12, 16, 3) * 255).byte().numpy()).resize((160, 120))
    inputs = captioner.encode_images([image])
    tokens = hub_models.TOKENS[:3]

    def explain_all():
        return [
            cgvs(captioner, inputs, tokens),
            attention(captioner, inputs, tokens),
            word_gradient(captioner, inputs, tokens),
        ]

    expected = explain_all()
    with StandIn():
        captioner.to("cuda")
        assert captioner.encode_images([image]).features.device == DEVICE
        assert all_close(explain_all(), expected)
