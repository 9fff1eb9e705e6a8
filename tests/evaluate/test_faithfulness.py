"""Deletion and insertion with an extractor and a captioner of random weights, and their errors."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cgsaliency.core.errors import InputError
from cgsaliency.core.explanation import Explanation
from cgsaliency.core.geometry import CellGrid, ImageCrop
from cgsaliency.core.protocols import Descriptors
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.data.media import load_inputs
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.evaluate.faithfulness import (
    MaskedScorer,
    RegionGrid,
    compose_image,
    deletion_insertion_curves,
    deletion_masks,
    descriptor_scorer,
    faithfulness_rows,
    nearest_cells,
    pixel_scorer,
    rank_regions,
    region_evidence,
)
from cgsaliency.evaluate.pointing_game import pointing_rows
from cgsaliency.explain.baselines import center_map, random_map
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.features.backbone import Backbone
from cgsaliency.features.extractor import DescriptorExtractor
from cgsaliency.models.s2vt import S2VT


@pytest.fixture(scope="module")
def setup(toybox):
    """Three synthetic images, an extractor of 4 × 4 cells of a crop, a captioner with a small vocabulary, and scorers
    of masks."""
    samples = load_flickr30k(toybox, "train").samples[:3]
    torch.manual_seed(0)
    extractor = DescriptorExtractor(Backbone("toynet", size=64, channels=12), rows=4, columns=4, view="center")
    vocabulary = Vocabulary.from_captions(
        [caption.tokens for sample in samples for caption in sample.captions], min_count=3
    )
    captioner = S2VT(
        vocabulary, feature_dim=12, embed_dim=8, word_dim=6, hidden_dim=10, max_words=12, dropout=0.5
    ).train()
    features = extractor(samples)

    def descriptors(sample):
        return extractor.to_descriptors(sample, features[[other.id for other in samples].index(sample.id)])

    def image(sample):
        return load_inputs([sample.path], [extractor.image_crop(sample)])[0]

    def explain(sample, caption_index):
        return cgvs(captioner, descriptors(sample), sample.captions[caption_index].tokens, truncate=True)

    def explain_random(sample, caption_index):
        return random_map(
            sample.captions[caption_index].tokens, extractor.image_crop(sample), f"{sample.id}/{caption_index}"
        )

    def explain_center(sample, caption_index):
        return center_map(sample.captions[caption_index].tokens, extractor.image_crop(sample))

    scorers = {
        "descriptors, left out": lambda sample, caption_index: descriptor_scorer(
            captioner, descriptors(sample), sample.captions[caption_index].tokens, truncate=True
        ),
        "descriptors, replaced": lambda sample, caption_index: descriptor_scorer(
            captioner, descriptors(sample), sample.captions[caption_index].tokens, features.mean((0, 1)), truncate=True
        ),
        "pixels": lambda sample, caption_index: pixel_scorer(
            captioner,
            extractor.extract,
            image(sample),
            RegionGrid(extractor.grid, extractor.image_crop(sample)),
            sample.captions[caption_index].tokens,
            truncate=True,
        ),
    }
    return SimpleNamespace(
        samples=samples,
        extractor=extractor,
        captioner=captioner,
        descriptors=descriptors,
        image=image,
        scorers=scorers,
        explainers={"cgvs": explain, "random": explain_random, "center": explain_center},
    )


def word_log_probs(captioner, features, tokens):
    "Return log p of each known word, one caption at a time."
    token_ids, _ = captioner.encode_words(list(tokens), truncate=True)
    captioner.eval()
    with torch.no_grad():
        log_p = captioner.log_probs(features[None], token_ids[None])[0]
    captioner.train()
    return torch.stack([log_p[t, word] for t, word in enumerate(token_ids)]).double()


@pytest.mark.parametrize("scorer", ["descriptors, left out", "descriptors, replaced", "pixels"])
def test_rows_of_all_methods_match_each_other_and_the_pointing_game(setup, scorer):
    rows = faithfulness_rows(setup.explainers, setup.samples, setup.scorers[scorer], num_steps=4)
    assert faithfulness_rows(setup.explainers, setup.samples, setup.scorers[scorer], num_steps=4).equals(rows)
    phrase_columns = ["record", "caption_index", "start", "end", "phrase", "entity_id", "categories"]
    by_method = rows.pivot(index=phrase_columns, columns="method", values=["deletion", "insertion", "full", "empty"])
    assert (
        not by_method.isna().any().any()
        and ((0 < by_method) & (by_method < 1)).all().all()
        and (by_method.nunique() > len(by_method) / 2).all()
    )
    # the ends are the same for all methods
    for end in ("full", "empty"):
        assert (by_method[end].nunique(axis=1) == 1).all()
    assert all(module.training for module in setup.captioner.modules())
    pointing = pointing_rows(setup.explainers["cgvs"], setup.samples).set_index(phrase_columns)
    without_row = [key for key in pointing.index if key not in by_method.index]
    assert (
        set(by_method.index) <= set(pointing.index)
        and pointing.loc[without_row].x.isna().all()
        and not pointing.loc[by_method.index].x.isna().any()
    )
    # the captioner knows none of their words, or they lie beyond its longest caption
    assert len(without_row) > 0


def test_a_full_mask_gives_the_log_probabilities_of_the_image(setup):
    sample, caption_index = setup.samples[1], 0
    tokens = sample.captions[caption_index].tokens
    expected = word_log_probs(setup.captioner, setup.descriptors(sample).features, tokens)
    for name, make_scorer in setup.scorers.items():
        scorer = make_scorer(sample, caption_index)
        assert torch.allclose(scorer(torch.ones(1, 16, dtype=torch.bool))[0], expected, atol=1e-5), name
        assert scorer.positions == tuple(setup.captioner.encode_words(list(tokens), truncate=True)[1].tolist())


def test_curves_equal_a_loop_over_masks(setup):
    sample, caption_index = setup.samples[0], 0
    tokens, features, image = (
        sample.captions[caption_index].tokens,
        setup.descriptors(sample).features,
        setup.image(sample),
    )
    order, num_steps = rank_regions(torch.zeros(16), "any"), 5
    cells, filler = nearest_cells(setup.extractor.grid), torch.tensor([0.2, 0.9, 0.4])
    left_out = setup.scorers["descriptors, left out"](sample, caption_index)
    pixels = pixel_scorer(
        setup.captioner, setup.extractor.extract, image, left_out.regions, tokens, filler, truncate=True, batch_size=3
    )
    span = slice(0, len(tokens))
    for k, num_removed in enumerate((0, 3, 6, 10, 13, 16)):
        for curve, kept_cells in (
            ("deletion", order[num_removed:].sort().values),
            ("insertion", order[:num_removed].sort().values),
        ):
            kept_features = [features[kept_cells]] if len(kept_cells) else [value[None] for value in features]
            expected = (
                torch.stack([word_log_probs(setup.captioner, inputs, tokens) for inputs in kept_features])
                .mean(0)
                .mean()
                .exp()
            )
            assert torch.allclose(
                getattr(deletion_insertion_curves(left_out, [(span, order)], num_steps)[0], curve)[k],
                expected,
                rtol=1e-5,
            )
            masked = filler[:, None, None].repeat(1, 64, 64)
            for cell in kept_cells:
                masked[:, cells == cell] = image[:, cells == cell]
            assert torch.allclose(
                getattr(deletion_insertion_curves(pixels, [(span, order)], num_steps)[0], curve)[k],
                word_log_probs(setup.captioner, setup.extractor.extract(masked[None])[0], tokens).mean().exp(),
                rtol=1e-4,
            )


def test_equal_masks_are_scored_once(setup):
    sample, caption_index, batch_sizes = setup.samples[0], 0, []
    scorer = setup.scorers["descriptors, replaced"](sample, caption_index)
    counting_scorer = MaskedScorer(
        scorer.regions, scorer.positions, lambda masks: (batch_sizes.append(len(masks)), scorer.score_fn(masks))[1], 16
    )
    orders = [rank_regions(torch.zeros(16), f"{k}") for k in range(5)]
    known = scorer.positions[0]
    curves = deletion_insertion_curves(counting_scorer, [(slice(known, known + 1), order) for order in orders], 8)
    assert sum(batch_sizes) <= 2 + 5 * 2 * 7 and max(batch_sizes) <= 16
    for order, curve in zip(orders, curves):
        assert torch.allclose(
            deletion_insertion_curves(scorer, [(slice(known, known + 1), order)], 8)[0].deletion,
            curve.deletion,
            rtol=1e-5,
        )


def test_frames_of_a_video_are_regions(setup):
    torch.manual_seed(1)
    view, tokens = ImageCrop.full(96, 72, 64), setup.samples[0].captions[0].tokens
    video = Descriptors(torch.randn(6, 12), CellGrid.uniform(1, 1, 64, 64), view, tuple(k / 2 for k in range(6)))
    scorer = descriptor_scorer(setup.captioner, video, tokens, truncate=True)
    evidence = cgvs(setup.captioner, video, tokens, truncate=True)
    assert (
        torch.equal(region_evidence(evidence, scorer.regions, 1), evidence.saliency[1].double().flatten())
        and len(scorer.regions) == 6
    )
    masks = deletion_masks(rank_regions(region_evidence(evidence, scorer.regions, 1), "video"), 6)
    assert torch.allclose(
        scorer(masks)[2], word_log_probs(setup.captioner, video.features[masks[2]], tokens), atol=1e-5
    )
    with pytest.raises(InputError, match="has 6 frames, the regions have 5"):
        region_evidence(evidence, RegionGrid(video.grid, view, video.times[:5]))
    with pytest.raises(InputError, match="Give the network's input of one image"):
        compose_image(torch.zeros(3, 64, 64), torch.zeros(3), scorer.regions, masks)


def with_nan_weights(captioner):
    captioner_ = S2VT(captioner.vocabulary, feature_dim=12, embed_dim=8, word_dim=6, hidden_dim=10, max_words=12)
    captioner_.to_logits.bias.data.fill_(float("nan"))
    return captioner_


def test_wrong_arguments_are_rejected(setup):
    sample, caption_index = setup.samples[0], 0
    tokens, descriptors, image, crop = (
        sample.captions[caption_index].tokens,
        setup.descriptors(sample),
        setup.image(sample),
        setup.extractor.image_crop(sample),
    )
    scorer, regions = (
        setup.scorers["pixels"](sample, caption_index),
        RegionGrid(setup.extractor.grid, setup.extractor.image_crop(sample)),
    )
    explanation = setup.explainers["cgvs"](sample, caption_index)
    span, order, encode = slice(0, len(tokens)), torch.arange(16), setup.extractor.extract
    coarse_regions = RegionGrid.uniform(ImageCrop.full(sample.width, sample.height, 64), 4, 4)
    regions_of_other_image = RegionGrid.uniform(ImageCrop.full(sample.height + 1, sample.width, 64), 4, 4)
    with_infinite_values = replace(explanation, saliency=explanation.saliency / 0)
    cases = [
        (lambda: deletion_masks(order, 0), "steps: 0 for 16 regions"),
        (lambda: deletion_insertion_curves(scorer, [(span, order)], -3), "steps: -3 for 16 regions"),
        (lambda: deletion_insertion_curves(scorer, [(span, order)], 17), "steps: 17 for 16 regions"),
        (
            lambda: scorer(torch.ones(2, 15, dtype=torch.bool)),
            "masks: are torch.bool of shape (2, 15); expected booleans of shape B × 16",
        ),
        (lambda: scorer(torch.ones(2, 16)), "masks: are torch.float32"),
        (lambda: scorer(torch.ones(16, dtype=torch.bool)), "masks: are torch.bool of shape (16,)"),
        (
            lambda: deletion_insertion_curves(scorer, [(slice(0, 0), order)]),
            "phrase 0:0: has no word that the captioner knows",
        ),
        (lambda: region_evidence(explanation, coarse_regions), "explanation by cgvs: is of "),
        (
            lambda: region_evidence(explanation, regions_of_other_image),
            f"the regions are of {sample.height + 1} × {sample.width} pixels",
        ),
        (lambda: region_evidence(with_infinite_values, regions), "values that are not finite"),
        (
            lambda: region_evidence(
                random_map(tokens, crop, "any"), RegionGrid.uniform(replace(crop, input_width=2, input_height=2), 4, 4)
            ),
            "leave some without a pixel",
        ),
        (
            lambda: pixel_scorer(
                setup.captioner, encode, image, regions, tokens, torch.zeros(3, 32, 32), truncate=True
            ),
            "filler: has shape (3, 32, 32); expected (3, 64, 64) or 3 numbers",
        ),
        (
            lambda: pixel_scorer(
                setup.captioner, encode, image, regions, tokens, torch.zeros(1, 64, 64), truncate=True
            ),
            "filler: has shape (1, 64, 64)",
        ),
        (
            lambda: pixel_scorer(setup.captioner, encode, image[:, :32], regions, tokens, truncate=True),
            "image: has shape (3, 32, 64)",
        ),
        (
            lambda: pixel_scorer(
                setup.captioner, lambda images: encode(images)[0], image, regions, tokens, truncate=True
            )(deletion_masks(order)),
            "encode: gives shape (16, 12)",
        ),
        (
            lambda: pixel_scorer(
                setup.captioner, encode, image, regions, tokens, torch.full((3,), torch.nan), truncate=True
            )(deletion_masks(order)),
            "log-probabilities that are not finite for 8 of 9 masks",
        ),
        (
            lambda: descriptor_scorer(setup.captioner, descriptors, tokens, torch.zeros(13), truncate=True),
            "baseline: has shape (13,)",
        ),
        (
            lambda: descriptor_scorer(
                setup.captioner, descriptors, tokens, torch.full((12,), torch.inf), truncate=True
            ),
            "not finite",
        ),
        (
            lambda: descriptor_scorer(with_nan_weights(setup.captioner), descriptors, tokens, truncate=True)(
                deletion_masks(order)
            ),
            "captioner: gives log-probabilities that are not finite for 9 of 9 masks",
        ),
        (
            lambda: descriptor_scorer(setup.captioner, descriptors, tokens, truncate=True, batch_size=0),
            "batch_size: is 0",
        ),
        (lambda: descriptor_scorer(setup.captioner, descriptors, ("xyzzy",)), "none of its words"),
        (lambda: faithfulness_rows({}, setup.samples, setup.scorers["pixels"]), "no phrase was judged"),
        (
            lambda: faithfulness_rows(
                {
                    "elsewhere": lambda sample, caption_index: random_map(
                        sample.captions[caption_index].tokens, coarse_regions.view, "any"
                    )
                },
                [sample],
                setup.scorers["pixels"],
            ),
            "explanation by random: is of ",
        ),
    ]
    for call, message in cases:
        with pytest.raises(InputError) as error:
            call()
        assert message in str(error.value), (message, str(error.value))


def test_evidence_of_regions_does_not_depend_on_the_grid_of_the_map(setup):
    sample = setup.samples[0]
    regions = RegionGrid(setup.extractor.grid, setup.extractor.image_crop(sample))
    assert nearest_cells(setup.extractor.grid).unique().tolist() == list(range(16))
    saliency = torch.zeros(1, 1, 64, 64)
    # the right half of the image, on a fine grid of an input of another size
    saliency[..., 32:] = 1
    explanation = Explanation(
        saliency,
        ("half",),
        CellGrid.uniform(64, 64, 128, 128),
        replace(regions.view, input_width=128, input_height=128),
        "by hand",
    )
    first = rank_regions(region_evidence(explanation, regions), "any")[:8]
    assert (first % 4 >= 2).all()
