"""Baseline maps that need no sentence: their errors, and that they do not read the sentence."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cgsaliency.core.errors import InputError
from cgsaliency.core.explanation import Explanation
from cgsaliency.core.geometry import CellGrid, ImageCrop
from cgsaliency.core.protocols import Descriptors
from cgsaliency.core.records import Caption, Sample
from cgsaliency.explain.baselines import (
    draw_other_caption,
    mean_sentence_map,
    sentence_map,
    strongest_descriptor_map,
)

GRID, VIEW = CellGrid.uniform(2, 3, 224, 224), ImageCrop.full(500, 375, 224)


def explanation_of(saliency: torch.Tensor) -> Explanation:
    return Explanation(saliency, tuple("abcdef"[: len(saliency)]), GRID, VIEW, "cgvs")


def test_strongest_descriptor_has_one_map_for_each_frame():
    features = torch.rand(4 * 6, 7, generator=torch.Generator().manual_seed(0))
    times = (0.0, 0.5, 1.0, 1.5)
    explanation = strongest_descriptor_map(("a", "b"), Descriptors(features, GRID, VIEW, times))
    assert explanation.saliency.shape == (2, 4, 2, 3) and explanation.times == times
    frame, cell = divmod(int((features**2).sum(1).argmax()), 6)
    assert explanation.peak(1).frame == frame
    assert explanation.saliency[1, frame].argmax() == cell


def test_every_phrase_of_a_caption_gets_the_map_of_the_other_sentence():
    saliency = torch.randn(4, 1, 2, 3, generator=torch.Generator().manual_seed(1))
    explanation = sentence_map(tuple("abcde"), explanation_of(saliency))
    for span in (slice(0, 1), slice(1, 4)):
        peak = explanation.merge(span).peak()
        assert explanation.saliency[0].flatten().argmax() == saliency.sum(0).flatten().argmax()
        assert (peak.x, peak.y) == (explanation.peak(0).x, explanation.peak(0).y)


def test_mean_map_is_that_of_a_loop_over_sentences():
    generator = torch.Generator().manual_seed(2)
    maps = [torch.randn(k + 1, 1, 2, 3, generator=generator) for k in range(4)]
    total = torch.zeros(1, 2, 3)
    for saliency in maps:
        evidence = saliency.sum(0)
        total += (evidence - evidence.min()) / (evidence.max() - evidence.min())
    mean = mean_sentence_map(map(explanation_of, maps))
    torch.testing.assert_close(mean.saliency, total[None] / 4)


def test_mean_map_of_no_or_of_unequal_explanations_is_an_error():
    with pytest.raises(InputError, match="none"):
        mean_sentence_map([])
    first = explanation_of(torch.rand(2, 1, 2, 3))
    second = replace(first, saliency=torch.rand(2, 1, 3, 2), grid=CellGrid.uniform(3, 2, 224, 224))
    with pytest.raises(InputError, match="different grids"):
        mean_sentence_map([first, second])


def test_the_other_caption_is_never_of_the_same_sample_and_repeats():
    samples = [Sample(str(k), Path("x"), 4, 4, (Caption((str(k),)), Caption((str(k), "b")))) for k in range(3)]
    samples.append(Sample("empty", Path("x"), 4, 4))
    for sample in samples:
        drawn = [draw_other_caption(samples, sample, str(key)) for key in range(50)]
        assert all(caption.tokens[0] != sample.id for caption in drawn)
        assert drawn == [draw_other_caption(samples, sample, str(key)) for key in range(50)]
        assert drawn != [draw_other_caption(samples, sample, str(key), seed=1) for key in range(50)]
    with pytest.raises(InputError, match="only 0"):
        draw_other_caption([samples[0], samples[3]], samples[0], "key")
