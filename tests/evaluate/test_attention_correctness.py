"""The uniform row of table 2 of cgvs, from the official annotations."""

import pytest

from cgsaliency.core.geometry import ImageCrop
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
