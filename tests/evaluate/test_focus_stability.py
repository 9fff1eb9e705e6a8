"""Overlap of the attention of neighboring words, within phrases and across their ends."""

import pandas as pd
import pytest
import torch

from cgsaliency.evaluate.focus_stability import mark_phrases, neighbor_rows, stability_difference

WEIGHTS = torch.tensor([[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]], dtype=torch.float64)


def test_overlap_is_the_sum_of_the_smaller_probabilities():
    rows = neighbor_rows(WEIGHTS, [(0, 2), (2, 4)])
    assert [row["within"] for row in rows] == [True, False, True]
    assert [row["overlap"] for row in rows] == [0.75, 0.5, 0.75]


def test_pairs_outside_phrases_and_unknown_words_are_left_out():
    assert [row["position"] for row in neighbor_rows(WEIGHTS, [(0, 1)])] == [0]
    unknown = WEIGHTS.clone()
    unknown[1] = 0
    assert [row["position"] for row in neighbor_rows(unknown, [(0, 2), (2, 4)])] == [2]


def test_the_difference_has_the_sign_of_the_claim():
    rows = pd.DataFrame(
        [row | {"record": record} for record in range(12) for row in neighbor_rows(WEIGHTS, [(0, 2), (2, 4)])]
    )
    difference = stability_difference(rows)
    assert difference.mean == difference.low == 0.25 and difference.n == 36
    assert stability_difference(rows.assign(within=~rows.within)).mean == -0.25


@pytest.mark.parametrize(
    "caption, expected",
    [("a red ball on a red", [(0, 3)]), ("red ball red on ball", [(0, 2), (4, 5)]), ("on on", [])],
)
def test_phrases_of_generated_captions_end_with_a_noun(caption, expected):
    assert mark_phrases(caption.split(), frozenset({"a", "red"}), frozenset({"ball"})) == expected
