"""Attention correctness of nouns: the script's loops written out, and what the official annotations give."""
from collections import Counter
from pathlib import Path

import pytest
import torch

from cgsaliency.core.geometry import View
from cgsaliency.core.records import Phrase, Record, Sentence
from cgsaliency.core.regions import of_boxes, painted
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.evaluate.nouns import central_square, noun_rows, nouns_of
from cgsaliency.explain.reference import random, uniform

TWO = ((100.0, 100.0, 260.0, 300.0), (200.0, 50.0, 400.0, 250.0))
RECORD = Record("1", Path("1.jpg"), 500, 375, (
    Sentence(("Two", "dogs", "play"), (Phrase(0, 2, "7", ("animals",), TWO),)),
    Sentence(("The", "dogs", "play"), (Phrase(0, 2, "7", ("animals",), TWO),))))
VIEW = central_square(RECORD)


def slowly(record: Record, explanation, nouns: frozenset, number: int) -> list:
    "The authors' loops without their faults: (word's place, chain, mass) in order, for an explanation of 224 × 224 pixels of the central square."
    side, rows, before = min(record.width, record.height), [], None
    left, top = (record.width - side) / 2, (record.height - side) / 2
    for place, word in enumerate(explanation.targets):
        if word.lower() not in nouns: continue
        cells = explanation.saliency[place, 0].double()
        cells = cells / cells.sum()
        for sentence in record.sentences:
            for phrase in sentence.phrases:
                if word.lower() not in [token.lower() for token in sentence.tokens[phrase.start:phrase.stop]]: continue
                if phrase.chain == "0" or not phrase.boxes or phrase.scene or phrase.no_box: continue
                boxes = [tuple(min(max(round((edge - start) * 224 / side), 0), 224) for edge, start in zip(box, (left, top, left, top))) for box in phrase.boxes]
                score = sum(float(cells[y0:y1, x0:x1].sum()) for x0, y0, x1, y1 in boxes)
                for i, a in enumerate(boxes):
                    for j, b in enumerate(boxes):
                        if i != j:
                            x0, y0, x1, y1 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
                            if x0 < x1 and y0 < y1: score -= 0.5 * float(cells[y0:y1, x0:x1].sum())
                if phrase.chain == before: rows[-1] = max(rows[-1], (place, phrase.chain, score), key=lambda row: row[2])
                else: rows.append((place, phrase.chain, score))
                before = phrase.chain
    return rows


def test_attention_inside_scores_one_and_outside_zero():
    boxes = VIEW.boxes(torch.tensor(TWO, dtype=torch.float64)).round()
    outside = torch.tensor([[0.0, 190, 224, 224]], dtype=torch.float64)
    for region, mass in [(boxes, 1.0), (outside, 0.0), (torch.cat([boxes, outside]), None)]:
        regions = of_boxes(region, VIEW)
        map = painted(torch.full((3, len(region)), 1 / len(region)), regions, RECORD.sentences[0].tokens, "p(r | h)", {}, side=224)
        (row,) = noun_rows(lambda record, number: map, [RECORD], frozenset({"dogs"})).itertuples()
        areas = ((region[:, 2] - region[:, 0]) * (region[:, 3] - region[:, 1])).tolist()
        expected = sum(areas[:2]) / sum(areas) if mass is None else mass
        assert abs(row.mass - expected) < 1e-9 and (row.word, row.chain, row.position) == ("dogs", "7", 1)


def test_the_loops_written_out_give_the_same_rows(toybox):
    records = load_flickr30k(toybox, "train", annotations_only=True).records
    nouns = nouns_of(records)

    def explain(record, number): return random(record.sentences[number].tokens, central_square(record), f"{record.id}/{number}", side=224)
    rows = noun_rows(explain, records, nouns, all_sentences=True)
    expected = [(record.id, number, *row) for record in records for number in range(len(record.sentences)) for row in slowly(record, explain(record, number), nouns, number)]
    assert len(rows) == len(expected) > 50
    assert list(zip(rows.record, rows.sentence, rows.position, rows.chain)) == [row[:4] for row in expected]
    assert max(abs(mass - row[4]) for mass, row in zip(rows.mass, expected)) < 1e-4     # random's maps are scaled before they are shares


def test_a_generated_sentence_is_judged_by_people_s_phrases():
    map = uniform(("some", "DOGS", "and", "cats"), VIEW)
    rows = noun_rows(lambda record, number: map, [RECORD], frozenset({"dogs", "cats"}))
    assert list(rows.word) == ["DOGS"] and abs(rows.mass[0] - rows.uniform[0]) < 1e-9
    whole = noun_rows(lambda record, number: map, [RECORD], frozenset({"dogs"}), crop=lambda record: View.whole(500, 375, 224))
    assert abs(whole.uniform[0] - (160 * 200 + 200 * 200 - 60 * 150) / (500 * 375)) < 0.01


@pytest.fixture(scope="module")
def photographs(shared_data) -> tuple:
    return load_flickr30k(shared_data, "val", annotations_only=True).records


def test_frequent_heads_of_real_phrases_are_nouns(photographs):
    nouns = nouns_of(photographs)
    uses = Counter(token.lower() for record in photographs for sentence in record.sentences for token in sentence.tokens)
    frequent = sorted(nouns, key=lambda word: (-uses[word], word))[:100]
    assert frequent[:10] == "man woman people shirt men boy street girl dog children".split()
    wrong = set(frequent) & {"them", "male", "ride"}      # of the hundred, read one by one: a pronoun, and words that are an adjective or a verb as often
    assert len(wrong) <= 3 and len(nouns) > 1500
    assert not nouns & set("a the two young red black in on is wearing playing he him it his someone that while and soccer tennis . ,".split())


def test_uniform_maps_of_real_annotations(photographs):
    some = photographs[:200]
    nouns = nouns_of(photographs)

    def explain(record, number): return uniform(record.sentences[number].tokens, central_square(record))
    pairs, union = (noun_rows(explain, some, nouns, overlap=overlap) for overlap in ("pairs", "union"))
    assert (pairs.mass - pairs.uniform).abs().max() < 1e-9 and pairs.word.equals(union.word)
    assert (union.mass >= pairs.mass - 1e-9).all() and (union.mass > pairs.mass + 1e-9).mean() < 0.1
    assert 0.25 < union.mean(numeric_only=True).uniform < 0.35
