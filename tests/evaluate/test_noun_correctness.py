"""Attention correctness of nouns: against the loops of the authors' script, and on the official annotations."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from cgsaliency.core.geometry import ImageCrop
from cgsaliency.core.records import Caption, Phrase, Sample
from cgsaliency.core.regions import box_regions, paint_regions
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.evaluate.noun_correctness import central_square, find_nouns, noun_rows
from cgsaliency.explain.baselines import random_map, uniform_map

BOXES = ((100.0, 100.0, 260.0, 300.0), (200.0, 50.0, 400.0, 250.0))
SAMPLE = Sample(
    "1",
    Path("1.jpg"),
    500,
    375,
    (
        Caption(("Two", "dogs", "play"), (Phrase(0, 2, "7", ("animals",), BOXES),)),
        Caption(("The", "dogs", "play"), (Phrase(0, 2, "7", ("animals",), BOXES),)),
    ),
)
VIEW = central_square(SAMPLE)


def reference_rows(sample: Sample, explanation, nouns: frozenset, caption_index: int) -> list:
    """Compute rows by the loops of the authors' script without its errors: (position of the word, entity, mass), for an
    explanation of 224 × 224 pixels of the central square."""
    side, rows, previous_entity = min(sample.width, sample.height), [], None
    left, top = (sample.width - side) / 2, (sample.height - side) / 2
    for position, word in enumerate(explanation.targets):
        if word.lower() not in nouns:
            continue
        cells = explanation.saliency[position, 0].double()
        cells = cells / cells.sum()
        for caption in sample.captions:
            for phrase in caption.phrases:
                if word.lower() not in [token.lower() for token in caption.tokens[phrase.start : phrase.end]]:
                    continue
                if phrase.entity_id == "0" or not phrase.boxes or phrase.scene or phrase.unboxed:
                    continue
                boxes = [
                    tuple(
                        min(max(round((edge - start) * 224 / side), 0), 224)
                        for edge, start in zip(box, (left, top, left, top))
                    )
                    for box in phrase.boxes
                ]
                score = sum(float(cells[y0:y1, x0:x1].sum()) for x0, y0, x1, y1 in boxes)
                for i, a in enumerate(boxes):
                    for j, b in enumerate(boxes):
                        if i != j:
                            x0, y0, x1, y1 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
                            if x0 < x1 and y0 < y1:
                                score -= 0.5 * float(cells[y0:y1, x0:x1].sum())
                if phrase.entity_id == previous_entity:
                    rows[-1] = max(rows[-1], (position, phrase.entity_id, score), key=lambda row: row[2])
                else:
                    rows.append((position, phrase.entity_id, score))
                previous_entity = phrase.entity_id
    return rows


def test_attention_inside_the_boxes_scores_1_and_outside_0():
    boxes = VIEW.boxes_to_input(torch.tensor(BOXES, dtype=torch.float64)).round()
    outside = torch.tensor([[0.0, 190, 224, 224]], dtype=torch.float64)
    for region, mass in [(boxes, 1.0), (outside, 0.0), (torch.cat([boxes, outside]), None)]:
        regions = box_regions(region, VIEW)
        explanation = paint_regions(
            torch.full((3, len(region)), 1 / len(region)), regions, SAMPLE.captions[0].tokens, "p(r | h)", {}, side=224
        )
        (row,) = noun_rows(lambda sample, caption_index: explanation, [SAMPLE], frozenset({"dogs"})).itertuples()
        areas = ((region[:, 2] - region[:, 0]) * (region[:, 3] - region[:, 1])).tolist()
        expected = sum(areas[:2]) / sum(areas) if mass is None else mass
        assert abs(row.mass - expected) < 1e-9 and (row.word, row.entity_id, row.position) == ("dogs", "7", 1)


def test_rows_equal_the_loops_of_the_script(toybox):
    samples = load_flickr30k(toybox, "train", annotations_only=True).samples
    nouns = find_nouns(samples)

    def explain(sample, caption_index):
        return random_map(
            sample.captions[caption_index].tokens, central_square(sample), f"{sample.id}/{caption_index}", side=224
        )

    rows = noun_rows(explain, samples, nouns, all_captions=True)
    expected = [
        (sample.id, caption_index, *row)
        for sample in samples
        for caption_index in range(len(sample.captions))
        for row in reference_rows(sample, explain(sample, caption_index), nouns, caption_index)
    ]
    assert len(rows) == len(expected) > 50
    assert list(zip(rows.record, rows.caption_index, rows.position, rows.entity_id)) == [row[:4] for row in expected]
    # random maps are scaled before they are normalized
    assert max(abs(mass - row[4]) for mass, row in zip(rows.mass, expected)) < 1e-4


def test_generated_captions_are_scored_by_annotated_phrases():
    explanation = uniform_map(("some", "DOGS", "and", "cats"), VIEW)
    rows = noun_rows(lambda sample, caption_index: explanation, [SAMPLE], frozenset({"dogs", "cats"}))
    assert list(rows.word) == ["DOGS"] and abs(rows.mass[0] - rows.uniform[0]) < 1e-9
    full_image = noun_rows(
        lambda sample, caption_index: explanation,
        [SAMPLE],
        frozenset({"dogs"}),
        crop=lambda sample: ImageCrop.full(500, 375, 224),
    )
    assert abs(full_image.uniform[0] - (160 * 200 + 200 * 200 - 60 * 150) / (500 * 375)) < 0.01


@pytest.fixture(scope="module")
def flickr30k_samples(shared_data) -> tuple:
    return load_flickr30k(shared_data, "val", annotations_only=True).samples


@pytest.mark.slow
def test_frequent_heads_of_annotated_phrases_are_nouns(flickr30k_samples):
    nouns = find_nouns(flickr30k_samples)
    counts = Counter(
        token.lower() for sample in flickr30k_samples for caption in sample.captions for token in caption.tokens
    )
    frequent = sorted(nouns, key=lambda word: (-counts[word], word))[:100]
    assert frequent[:10] == "man woman people shirt men boy street girl dog children".split()
    # among the hundred: a pronoun, and words that are as often an adjective or a verb
    not_nouns = set(frequent) & {"them", "male", "ride"}
    assert len(not_nouns) <= 3 and len(nouns) > 1500
    others = "a the two young red black in on is wearing playing he him it his someone that while and soccer tennis . ,"
    assert not nouns & set(others.split())


@pytest.mark.slow
def test_uniform_maps_on_official_annotations(flickr30k_samples):
    samples = flickr30k_samples[:200]
    nouns = find_nouns(flickr30k_samples)

    def explain(sample, caption_index):
        return uniform_map(sample.captions[caption_index].tokens, central_square(sample))

    pairs, union = (noun_rows(explain, samples, nouns, overlap_rule=overlap) for overlap in ("pairs", "union"))
    assert (pairs.mass - pairs.uniform).abs().max() < 1e-9 and pairs.word.equals(union.word)
    assert (union.mass >= pairs.mass - 1e-9).all() and (union.mass > pairs.mass + 1e-9).mean() < 0.1
    assert 0.25 < union.mean(numeric_only=True).uniform < 0.35
