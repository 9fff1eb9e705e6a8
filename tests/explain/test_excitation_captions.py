"""Excitation backprop for the words of a caption: custom captioners, networks of torchvision, chunks, errors; and maps
of captioners with random output weights."""

import copy
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
import torchvision
from scipy.stats import spearmanr
from torch import Tensor, nn

from assertions import assert_input_error, damage_file
from cgsaliency.core.geometry import CellGrid, ImageCrop, MapGeometry
from cgsaliency.core.protocols import Descriptors, RecurrentTrace, TraceableCaptioner
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.explain.excitation import trace_forward
from cgsaliency.explain.excitation_captions import context_evidence, eb_r_caption, eb_r_words
from cgsaliency.explain.excitation_rnn import VARIANTS
from cgsaliency.explain.word_gradient import GRADIENT_METHODS, integrated_gradients, word_gradient
from cgsaliency.models.base import load_captioner
from cgsaliency.models.mean_pool import MeanPoolCaptioner, toy_mean_pool_captioner
from cgsaliency.models.s2vt import S2VT
from cgsaliency.models.soft_attention import SoftAttention
from cgsaliency.toy.color_models import OBJECT_COLORS, color_descriptors, color_scenes, reference_color_scores
from cgsaliency.train.captioner import generate_captions, train_captioner
from cgsaliency.train.loop import TrainConfig

WORDS = "a man in red shirt plays guitar on stage with his dog".split()
VOCABULARY = Vocabulary.from_captions([WORDS])
TOKENS = ["A", "man", "strums", "in", "red", ","]  # two of them are unknown
KNOWN = [0, 1, 3, 4]
ROWS, COLUMNS, FEATURES = 2, 4, 6


class CustomCaptioner:
    "A custom captioner without a base class: a GRU that reads the previous word and the mean of the features."

    vocabulary = VOCABULARY

    def __init__(self, hidden: int = 9):
        def random_weight(*shape: int) -> Tensor:
            return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) / 2

        self.word_embedding, self.weight_ih, self.weight_hh, self.weight_context, self.weight_output = (
            random_weight(len(VOCABULARY), 4),
            random_weight(3 * hidden, 4),
            random_weight(3 * hidden, hidden),
            random_weight(3 * hidden, FEATURES),
            random_weight(len(VOCABULARY), hidden),
        )

    def encode_words(self, tokens, truncate=False):
        return VOCABULARY.encode(tokens)

    def output_weight(self):
        return self.weight_output

    def trace(self, features, token_ids):
        mean, steps = features.mean(1), []
        x, h = (
            self.word_embedding[nn.functional.pad(token_ids[:, :-1], (1, 0))].transpose(0, 1),
            features.new_zeros(len(features), self.weight_hh.shape[1]),
        )
        for word_input in x:
            (r, z, n), (r_back, z_back, u) = (
                (word_input @ self.weight_ih.T + mean @ self.weight_context.T).chunk(3, -1),
                (h @ self.weight_hh.T).chunk(3, -1),
            )
            r, z = (r + r_back).sigmoid(), (z + z_back).sigmoid()
            n = (n + r * u).relu()
            h = (1 - z) * n + z * h
            steps.append((h, {"r": r, "z": z, "n": n, "u": u}))
        return (
            RecurrentTrace(
                "gru",
                "relu",
                x,
                torch.stack([h for h, _ in steps]),
                {name: torch.stack([gates[name] for _, gates in steps]) for name in "rznu"},
                self.weight_ih,
                self.weight_hh,
                mean,
                self.weight_context,
            ),
        )

    def log_probs(self, features, token_ids):
        return (self.trace(features, token_ids)[-1].outputs.transpose(0, 1) @ self.weight_output.T).log_softmax(-1)


def mean_pool(feature_dim: int = FEATURES) -> MeanPoolCaptioner:
    torch.manual_seed(0)
    model = MeanPoolCaptioner(VOCABULARY, feature_dim, word_dim=8, hidden_dim=24, max_words=8, dropout=0.5)
    for parameter in model.parameters():
        parameter.data.mul_(4)  # large enough for words to make a difference
    return model.eval()


def make_descriptors(num_frames: int) -> Descriptors:
    features = 2 * torch.rand(num_frames * ROWS * COLUMNS, FEATURES, generator=torch.Generator().manual_seed(1))
    return Descriptors(
        features,
        CellGrid.uniform(ROWS, COLUMNS, 40, 80),
        ImageCrop.full(80, 40, 40),
        tuple(k / 2 for k in range(num_frames)),
    )


each_captioner = pytest.mark.parametrize("make", [mean_pool, CustomCaptioner])
each_length = pytest.mark.parametrize("num_frames", [1, 5])
each_variant = pytest.mark.parametrize("variant", VARIANTS)
each_contrast = pytest.mark.parametrize("contrastive", [False, True])


def is_close(values: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return values.shape == expected.shape and bool((values - expected).abs().max() <= tolerance * expected.abs().max())


@each_captioner
@each_length
@each_variant
@each_contrast
def test_properties_of_word_evidence(make, num_frames, variant, contrastive):
    captioner, descriptors = make(), make_descriptors(num_frames)
    assert isinstance(captioner, TraceableCaptioner)
    explain = partial(eb_r_words, captioner, tokens=TOKENS, contrastive=contrastive, variant=variant)
    explanation = explain(descriptors)
    maps = explanation.saliency
    assert (explanation.targets, explanation.times, explanation.grid, explanation.method, explanation.settings) == (
        tuple(TOKENS),
        descriptors.times,
        descriptors.grid,
        "cEB-R" if contrastive else "EB-R",
        {"variant": variant},
    )
    assert (
        maps.shape == (6, num_frames, ROWS, COLUMNS)
        and maps[[2, 5]].eq(0).all()
        and maps[KNOWN].flatten(1).abs().amax(1).min() > 0
    )
    assert torch.allclose(maps[KNOWN].sum((1, 2, 3)), torch.full((4,), 0.0 if contrastive else 1.0), atol=1e-5)
    # evidence through the update gate of a GRU may be negative
    assert contrastive or (make is CustomCaptioner and variant == "code") or (maps >= 0).all()
    # exactly the same again, and from the same weights
    assert torch.equal(maps, explain(descriptors).saliency)
    assert torch.equal(maps, eb_r_words(make(), descriptors, TOKENS, None, contrastive, variant).saliency)
    for k in KNOWN:
        # several words in one call and single words
        assert is_close(
            eb_r_words(captioner, descriptors, TOKENS, [slice(k, k + 1)], contrastive, variant).saliency[0], maps[k]
        ), k
        # later words make no difference
        assert is_close(
            eb_r_words(captioner, descriptors, TOKENS[: k + 1], None, contrastive, variant).saliency[k], maps[k]
        ), k
    order = torch.randperm(len(descriptors), generator=torch.Generator().manual_seed(2))
    shuffled = explain(replace(descriptors, features=descriptors.features[order])).saliency.flatten(1)
    # the order of the cells makes no difference
    assert is_close(shuffled, maps.flatten(1)[:, order])
    doubled_maps = explain(
        replace(descriptors, features=descriptors.features.repeat(2, 1), times=tuple(map(float, range(2 * num_frames))))
    ).saliency
    assert is_close(doubled_maps, maps.repeat(1, 2, 1, 1) / 2)
    dark_maps = explain(
        replace(
            descriptors,
            features=torch.cat([descriptors.features, torch.zeros_like(descriptors.features)]),
            times=tuple(map(float, range(2 * num_frames))),
        )
    ).saliency
    # cells without response have no evidence
    assert dark_maps[:, num_frames:].eq(0).all()


@each_captioner
@each_variant
def test_evidence_of_a_phrase_is_a_mixture_of_that_of_its_words(make, variant):
    captioner, descriptors = make(), make_descriptors(2)
    words = eb_r_words(captioner, descriptors, TOKENS, contrastive=False, variant=variant).saliency.flatten(1)
    phrase, complete, last = eb_r_words(
        captioner, descriptors, TOKENS, [slice(0, 2), slice(None), slice(-3, -2)], False, variant
    ).saliency.flatten(1)
    share = (phrase - words[0]) @ (words[1] - words[0]) / (words[1] - words[0]).square().sum()
    assert (
        (0 < share < 1 or (make is CustomCaptioner and variant == "code"))
        and is_close(phrase, words[0] + share * (words[1] - words[0]))
        and is_close(last, words[3])
    )
    assert is_close(
        complete,
        torch.linalg.lstsq(words[KNOWN].T.double(), complete[:, None].double()).solution[:, 0].float() @ words[KNOWN],
        1e-4,
    )


def network() -> nn.Module:
    "Return a network with a map of six channels, layer '4', and a vector of six features, layer '8'."
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(5, FEATURES, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(FEATURES * 16, FEATURES),
        nn.ReLU(),
    ).eval()


IMAGES = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@each_captioner
@pytest.mark.parametrize("start_layer, target_layer", [("4", "4"), ("4", "1"), ("8", "1"), ("8", "")])
def test_chunk_sizes_make_no_difference(make, start_layer, target_layer):
    captioner, cnn = make(), network()
    explain = partial(eb_r_caption, cnn, start_layer, captioner, IMAGES, TOKENS, target_layer)
    explanation = explain()
    assert explanation.saliency.shape[:2] == (6, 5) and explanation.settings == {
        "target_layer": target_layer,
        "start_layer": start_layer,
        "variant": "code",
    }
    for batch_size, max_cached_frames in [(1, 256), (2, 256), (2, 0), (16, 4)]:
        assert is_close(
            explain(batch_size=batch_size, max_cached_frames=max_cached_frames).saliency, explanation.saliency
        ), (
            batch_size,
            max_cached_frames,
        )
    assert torch.equal(
        explain(batch_size=2, max_cached_frames=0).saliency, explain(batch_size=2, max_cached_frames=0).saliency
    )
    for k in KNOWN:
        assert is_close(explain([slice(k, k + 1)]).saliency[0], explanation.saliency[k]), k
    single = eb_r_caption(
        cnn, start_layer, captioner, IMAGES[:1], TOKENS, target_layer, geometry=MapGeometry(times=[2.5])
    )
    assert single.times == (2.5,) and single.saliency.shape[1] == 1


@each_variant
def test_a_feature_map_gives_the_same_evidence_as_its_cells(variant):
    cnn = network()
    with torch.no_grad():
        cells = cnn[:5](IMAGES)
    descriptors = Descriptors(
        cells.flatten(2).transpose(1, 2).flatten(0, 1),
        CellGrid.uniform(8, 8, 16, 16),
        ImageCrop.full(16, 16, 16),
        tuple(map(float, range(5))),
    )
    assert is_close(
        eb_r_caption(cnn, "4", mean_pool(), IMAGES, TOKENS, "4", variant=variant).saliency,
        eb_r_words(mean_pool(), descriptors, TOKENS, variant=variant).saliency,
    )


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.vgg11().eval()


FC7, FRAMES = "classifier.4", torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))


@each_variant
def test_evidence_is_conserved_in_vgg(vgg, variant):
    captioner = mean_pool(4096)
    for target_layer, size in (("features.17", 4), ("features.9", 16)):
        for contrastive in (False, True):
            maps = eb_r_caption(
                vgg, FC7, captioner, FRAMES, TOKENS, target_layer, contrastive=contrastive, variant=variant
            ).saliency
            assert (
                maps.shape == (6, 2, size, size)
                and maps[[2, 5]].eq(0).all()
                and maps[KNOWN].flatten(1).abs().amax(1).min() > 0
            )
            assert torch.allclose(
                maps[KNOWN].sum((1, 2, 3)), torch.full((4,), 0.0 if contrastive else 1.0), atol=1e-4
            ), (
                target_layer,
                contrastive,
            )


def test_lost_probability_is_missing_in_the_maps(vgg):
    lossy_vgg, captioner = copy.deepcopy(vgg), mean_pool(4096)
    to_fc7 = nn.Sequential(lossy_vgg.features, lossy_vgg.avgpool, nn.Flatten(), lossy_vgg.classifier[:5])
    with torch.no_grad():
        # these units respond by their bias alone: their probability is lost
        lossy_vgg.classifier[0].bias[::2] = to_fc7[:3](FRAMES).matmul(lossy_vgg.classifier[0].weight.T).relu().mean()
        lossy_vgg.classifier[0].weight[::2] = 0
        features = to_fc7(FRAMES)
    evidence = context_evidence(captioner, features, TOKENS, contrastive=False)[1]
    forward_trace = trace_forward(lossy_vgg, FRAMES, ["features.17"], FC7)
    expected = forward_trace.backprop(
        torch.where(features > 0, evidence * features / features.sum(0), 0.0), ["features.17"]
    )["features.17"]
    maps = eb_r_caption(lossy_vgg, FC7, captioner, FRAMES, TOKENS, "features.17", contrastive=False).saliency[1]
    assert is_close(maps, expected.sum(1), 1e-4) and 0.1 < forward_trace.state.lost_mwp["classifier.0"] < 0.9
    assert abs(float(maps.sum()) + sum(forward_trace.state.lost_mwp.values()) - 1) < 1e-4


def module_states(*modules: nn.Module) -> tuple:
    return (
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        [
            (
                [submodule.training for submodule in module.modules()],
                [
                    len(submodule._forward_hooks) + len(submodule._forward_pre_hooks) + len(submodule._backward_hooks)
                    for submodule in module.modules()
                ],
                [
                    (
                        parameter.requires_grad,
                        parameter.tolist(),
                        None if parameter.grad is None else parameter.grad.tolist(),
                    )
                    for parameter in module.parameters()
                ],
            )
            for module in modules
        ],
    )


def test_state_of_models_and_inputs_is_restored():
    captioner, cnn, descriptors = mean_pool().train(), network().train(), make_descriptors(2)
    captioner.first.eval()
    captioner.to_logits.weight.requires_grad_(False)
    cnn[0].bias.requires_grad_(False)
    for parameter in (*captioner.parameters(), *cnn.parameters()):
        parameter.grad = torch.full_like(parameter, 7.0)
    states, features, images = module_states(captioner, cnn), descriptors.features.clone(), IMAGES.clone()
    explain_calls = [
        lambda: eb_r_words(captioner, descriptors, TOKENS).saliency,
        lambda: eb_r_caption(cnn, "8", captioner, IMAGES, TOKENS, "1").saliency,
    ]
    first = [explain() for explain in explain_calls]
    assert not any(maps.requires_grad for maps in first)
    assert_input_error(lambda: eb_r_words(captioner, descriptors, TOKENS, variant="mine"), "there is no 'mine'")
    assert_input_error(lambda: eb_r_caption(cnn, "8", captioner, IMAGES, ["strums"], "1"), "none of its words")
    assert (
        module_states(captioner, cnn) == states
        and torch.equal(descriptors.features, features)
        and torch.equal(IMAGES, images)
    )
    with torch.no_grad():
        without_grad = [explain() for explain in explain_calls]
    with torch.inference_mode():
        in_inference_mode = [explain() for explain in explain_calls]
    captioner.eval(), cnn.eval()
    for maps, *others in zip(first, without_grad, in_inference_mode, [explain() for explain in explain_calls]):
        assert all(torch.equal(maps, other) for other in others)  # dropout is inactive


@pytest.fixture(scope="module")
def captioner() -> MeanPoolCaptioner:
    return toy_mean_pool_captioner()


def color_samples(count: int, seed: int, noise: float = 0.0) -> list[tuple[Tensor, Descriptors, tuple[str, ...]]]:
    images, captions = color_scenes(count, seed)
    scores = reference_color_scores(
        images + noise * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    )
    return [
        (image, replace(color_descriptors(image), features=features.flatten(0, 1)), caption)
        for image, features, caption in zip(images, scores, captions)
    ]


def test_maps_of_generated_and_given_captions(captioner):
    samples, hits = color_samples(30, 3), []
    generated_captions = generate_captions(
        captioner,
        [str(k) for k in range(30)],
        torch.stack([descriptors.features for _, descriptors, _ in samples]),
        beam=2,
    )
    for k, (image, descriptors, caption) in enumerate(samples):
        generated = generated_captions[str(k)].split()
        of_generated, of_given = (
            eb_r_words(captioner, descriptors, generated),
            eb_r_words(captioner, descriptors, caption),
        )
        if tuple(generated) == caption:
            assert torch.equal(of_generated.saliency, of_given.saliency)
        hits.append(
            bool((image.view(-1, 3)[of_given.saliency[1].argmax()] == torch.tensor(OBJECT_COLORS[caption[1]])).all())
        )
        of_wrong = eb_r_words(
            captioner,
            descriptors,
            ["a", next(object_name for object_name in OBJECT_COLORS if object_name != caption[1]), *caption[2:]],
        )
        assert (
            torch.isfinite(of_wrong.saliency).all()
            and torch.equal(of_wrong.saliency[0], of_given.saliency[0])
            and not torch.allclose(of_wrong.saliency[1], of_given.saliency[1], atol=1e-4)
        )
    assert (
        sum(hits) >= 28
        and sum(generated_captions[str(k)].split() == list(caption) for k, (_, _, caption) in enumerate(samples)) >= 27
    )


# Explainers with the largest mean rank correlation allowed. Without contrast, maps of trained and of random output
# weights are similar: whatever responds excites some of a word's weights.
EXPLAIN_FUNCTIONS = {
    "cgvs": (cgvs, 0.5),
    "integrated gradients": (partial(integrated_gradients, steps=8), 0.5),
    **{method: (partial(word_gradient, method=method), 0.5) for method in GRADIENT_METHODS if method != "gradient"},
    **{
        f"{'cEB-R' if contrastive else 'EB-R'}, {variant}": (
            partial(eb_r_words, contrastive=contrastive, variant=variant),
            0.5 if contrastive else 0.9,
        )
        for contrastive in (False, True)
        for variant in VARIANTS
    },
}


def test_gradients_of_a_mean_are_the_same_for_each_cell(captioner):
    _, descriptors, caption = color_samples(1, 4)[0]
    maps = word_gradient(captioner, descriptors, caption, "gradient").saliency.flatten(1)
    # so 'gradient' is not tested below
    assert (maps > 0).all() and (maps - maps[:, :1]).abs().max() == 0


@pytest.mark.parametrize("explain, max_correlation", EXPLAIN_FUNCTIONS.values(), ids=EXPLAIN_FUNCTIONS)
def test_random_output_weights_change_the_maps(captioner, explain, max_correlation):
    """The output weights are replaced by random ones of the same standard deviation (Adebayo et al. 2018); an explainer
    whose maps stay the same does not depend on the model."""
    samples, weight = color_samples(6, 4, noise=0.05), captioner.to_logits.weight.detach()

    def correlations(other: MeanPoolCaptioner) -> list[float]:
        pairs = [
            (maps, other_maps)
            for _, descriptors, caption in samples
            for maps, other_maps in zip(
                explain(captioner, descriptors, caption).saliency.flatten(1),
                explain(other, descriptors, caption).saliency.flatten(1),
            )
            if maps.std() > 0 and other_maps.std() > 0
        ]
        return [float(spearmanr(maps, other_maps).statistic) for maps, other_maps in pairs]

    with_same, with_random = correlations(copy.deepcopy(captioner)), []
    for seed in range(5):
        other = copy.deepcopy(captioner)
        other.to_logits.weight.data.copy_(
            weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        )
        with_random += correlations(other)
    assert len(with_same) == 24 and min(with_same) > 1 - 1e-12 and len(with_random) > 40, (
        len(with_same),
        min(with_same),
        len(with_random),
    )
    mean = sum(with_random) / len(with_random)
    assert mean < max_correlation, (
        f"mean rank correlation of {mean:.3f} between {len(with_random)} maps and those with random output weights"
    )


@pytest.fixture(scope="module")
def folder_and_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioner") / "it"
    images, captions_ = color_scenes(8)
    vocabulary = Vocabulary.from_captions(captions_)
    captions = torch.stack([nn.functional.pad(vocabulary.encode(caption)[0], (0, 1)) for caption in captions_])[:, None]
    model_kwargs = {"feature_dim": 7, "word_dim": 4, "hidden_dim": 6, "max_words": 6}
    model, _ = train_captioner(
        MeanPoolCaptioner,
        folder,
        vocabulary,
        model_kwargs,
        reference_color_scores(images).flatten(1, 2),
        captions,
        TrainConfig(epochs=1, batch_size=4),
        progress=False,
    )
    return folder, model


@pytest.fixture
def captioner_folder(folder_and_model, tmp_path):
    return shutil.copytree(folder_and_model[0], tmp_path / "captioner")


def test_a_loaded_captioner_gives_the_same_maps(folder_and_model, captioner_folder):
    _, descriptors, caption = color_samples(1, 5)[0]
    assert torch.equal(
        eb_r_words(load_captioner(MeanPoolCaptioner, captioner_folder), descriptors, caption).saliency,
        eb_r_words(folder_and_model[1].cpu(), descriptors, caption).saliency,
    )
    assert_input_error(lambda: load_captioner(S2VT, captioner_folder), "these are not weights of this S2VT")
    assert_input_error(
        lambda: load_captioner(SoftAttention, captioner_folder), "these are not weights of this SoftAttention"
    )


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("model_kwargs.json", lambda content: content[:-3], "not valid JSON"),
        (
            "model_kwargs.json",
            lambda content: b'{"feature_dim": 7, "hiden": 6}',
            "are not arguments of MeanPoolCaptioner",
        ),
        ("model_kwargs.json", lambda content: b"[7, 4, 6]", "are not arguments of MeanPoolCaptioner"),
        (
            "model_kwargs.json",
            lambda content: content.replace(b'"hidden_dim": 6', b'"hidden_dim": "six"'),
            "are not arguments of MeanPoolCaptioner",
        ),
        (
            "model_kwargs.json",
            lambda content: content.replace(b'"hidden_dim": 6', b'"hidden_dim": -6'),
            "are not arguments of MeanPoolCaptioner",
        ),
        (
            "model_kwargs.json",
            lambda content: content.replace(b'"hidden_dim": 6', b'"hidden_dim": 0'),
            "are not arguments of MeanPoolCaptioner",
        ),
        ("model_kwargs.json", lambda content: None, "is not there"),
        ("best.safetensors", lambda content: content[: len(content) // 2], "not a complete safetensors file"),
        ("best.safetensors", lambda content: content[:5], "not a complete safetensors file"),
        ("best.safetensors", lambda content: None, "there are no such weights"),
        ("vocabulary.json", lambda content: b"{}", "is not a vocabulary"),
        ("vocabulary.json", lambda content: None, "is not there"),
    ],
)
def test_damaged_captioner_files_are_reported(captioner_folder, name, damage, message):
    damage_file(captioner_folder / name, damage((captioner_folder / name).read_bytes()))
    assert name in assert_input_error(lambda: load_captioner(MeanPoolCaptioner, captioner_folder), message).location


def test_sizes_that_do_not_match_the_weights_are_reported(captioner_folder):
    damage_file(
        captioner_folder / "model_kwargs.json",
        (captioner_folder / "model_kwargs.json").read_text().replace('"hidden_dim": 6', '"hidden_dim": 5'),
    )
    assert_input_error(lambda: load_captioner(MeanPoolCaptioner, captioner_folder), "of another shape, such as")


@pytest.mark.parametrize(
    "explain, message",
    [
        (
            lambda captioner, descriptors: eb_r_words(captioner, descriptors, TOKENS, variant="mine"),
            "there is no 'mine'",
        ),
        (
            lambda captioner, descriptors: eb_r_words(
                captioner, replace(descriptors, features=descriptors.features.log().log()), TOKENS
            ),
            "features that are not finite",
        ),
        (
            lambda captioner, descriptors: eb_r_words(
                captioner, replace(descriptors, features=descriptors.features[:, :5]), TOKENS
            ),
            "this captioner was made for 6",
        ),
        (lambda captioner, descriptors: eb_r_words(captioner, descriptors, ["strums", ","]), "none of its words"),
        (lambda captioner, descriptors: eb_r_words(captioner, descriptors, []), "is empty"),
        (
            lambda captioner, descriptors: eb_r_words(captioner, descriptors, WORDS),
            "has 12 words; this captioner allows 8",
        ),
        (lambda captioner, descriptors: eb_r_words(captioner, descriptors, TOKENS, [slice(2, 2)]), "phrase 2:2"),
        (
            lambda captioner, descriptors: eb_r_words(captioner, descriptors, TOKENS, [slice(0, 2), slice(4, 7)]),
            "phrase 4:7",
        ),
        (lambda captioner, descriptors: eb_r_words(captioner, descriptors, TOKENS, [slice(-9, 2)]), "phrase -9:2"),
        (
            lambda captioner, descriptors: eb_r_caption(network(), "8", captioner, IMAGES, TOKENS, "33"),
            "has no layer '33'",
        ),
        (
            lambda captioner, descriptors: eb_r_caption(network(), "1", captioner, IMAGES, TOKENS, "1"),
            "have 5 features; this captioner was made for 6",
        ),
        (
            lambda captioner, descriptors: eb_r_caption(network(), "4", captioner, IMAGES, TOKENS, "6"),
            "layer 6: nothing is propagated to it",
        ),
        (lambda captioner, descriptors: eb_r_caption(network(), "8", captioner, IMAGES / 0, TOKENS, "1"), "not finite"),
        (
            lambda captioner, descriptors: eb_r_caption(
                network(), "8", captioner, IMAGES, TOKENS, "1", geometry=MapGeometry(times=[1.0])
            ),
            "expected targets × frames × rows × columns = (6, 1, 16, 16)",
        ),
    ],
)
def test_wrong_arguments_are_rejected(explain, message):
    assert_input_error(lambda: explain(mean_pool(), make_descriptors(2)), message)
