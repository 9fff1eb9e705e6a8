"""The uniform row of cgvs' table 2, from the official annotations alone."""
from cgsaliency.core.geometry import View
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.evaluate.correctness import correctness_rows
from cgsaliency.evaluate.pointing import by_category
from cgsaliency.explain.reference import uniform
from cgsaliency.reproduce.tables import reported


def test_a_uniform_map_scores_what_the_papers_report(shared_data):
    records = load_flickr30k(shared_data, "test", annotations_only=True).records
    rows = correctness_rows(lambda record, number: uniform(record.sentences[number].tokens, View.central(record.width, record.height, 224)), records)
    here = {name: one.mean for name, one in by_category(rows, "mass").items()}
    table = reported("cgvs", "table2")
    published = dict(table[table.method == "uniform"][["setting", "value"]].values)
    away = {name: abs(here[name] - published[name]) for name in published}
    assert len(published) == 9 and sum(away.values()) / 9 < 0.004 and max(away.values()) < 0.01, away
    (liu,) = table[table.method == "uniform (Liu et al.)"].value
    assert abs(here["all"] - liu) < 0.001
