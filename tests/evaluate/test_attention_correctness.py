"""The uniform row of table 2 of cgvs, from the official annotations."""

import pytest
import torch

from cgsaliency.core.explanation import Explanation
from cgsaliency.core.geometry import CellGrid, ImageCrop
from cgsaliency.core.records import Caption, Phrase, Sample
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.evaluate.attention_correctness import correctness_rows
from cgsaliency.evaluate.pointing_game import category_intervals
from cgsaliency.explain.baselines import uniform_map
from cgsaliency.reproduce.tables import paper_rows


@pytest.mark.slow
def test_uniform_maps_score_as_published(shared_data):
    samples = load_flickr30k(shared_data, "test", annotations_only=True).samples
    rows = correctness_rows(
        lambda sample, caption_index: uniform_map(
            sample.captions[caption_index].tokens, ImageCrop.center_crop(sample.width, sample.height, 224)
        ),
        samples,
    )
    computed = {name: interval.mean for name, interval in category_intervals(rows, "mass").items()}
    table = paper_rows("cgvs", "table2")
    published = dict(table[table.method == "uniform"][["setting", "value"]].values)
    differences = {name: abs(computed[name] - published[name]) for name in published}
    assert len(published) == 9 and sum(differences.values()) / 9 < 0.004 and max(differences.values()) < 0.01, (
        differences
    )
    (liu,) = table[table.method == "uniform (Liu et al.)"].value
    assert abs(computed["all"] - liu) < 0.001


def test_phrases_with_all_attention_in_their_boxes_are_left_out_if_strict():
    boxes = ((0.0, 0.0, 128.0, 256.0),), ((0.0, 0.0, 256.0, 128.0),)  # the left half, and the upper half
    phrases = tuple(Phrase(k, k + 1, str(k + 1), ("other",), box) for k, box in enumerate(boxes))
    sample = Sample("0", None, 256, 256, (Caption(("left", "upper"), phrases),))
    saliency = torch.zeros(2, 1, 8, 8)
    saliency[:, :, :, 0] = 1.0  # at the left edge
    view = ImageCrop.center_crop(256, 256, 224)
    grid = CellGrid.uniform(8, 8, 224, 224)

    def explain(sample, caption_index):
        return Explanation(saliency, ("left", "upper"), grid, view, "edge")

    rows = correctness_rows(explain, [sample], strict=False)
    assert rows.mass[0] == 1.0 and rows.mass[1] == pytest.approx(0.5, abs=0.01)
    assert correctness_rows(explain, [sample]).phrase.tolist() == ["upper"]
