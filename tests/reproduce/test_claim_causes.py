"""Causes of claims that do not hold: checked where they are read, up to date, and written in words in the scorecard."""

import json
from pathlib import Path

import pandas as pd
import pytest

from cgsaliency.core.errors import InputError
from cgsaliency.evaluate.bootstrap import Interval
from cgsaliency.reproduce.claim_causes import (
    CAUSE_COLUMNS,
    claim_causes,
    explain_verdicts,
    obsolete_causes,
    scorecard_markdown,
)
from cgsaliency.reproduce.claims import claim_greater, name_variant, paper_claims, scorecard

NOTEBOOKS = Path(__file__).resolve().parents[2] / "nbs"
SCALES = {"claims": "toybox"} | {
    path.stem: path.stem.removeprefix("claims_") for path in (NOTEBOOKS / "papers").glob("claims_*.csv")
}
HOLDS, FAILS = Interval(2.0, 1.0, 3.0, 80), Interval(-2.0, -3.0, -1.0, 80)
TABLE2 = ("method", "The maps are flat.", "papers/cgvs/table2", "Results")


def make_causes(*rows):
    "Return causes at scale toybox."
    return pd.DataFrame([("toybox", *row) for row in rows], columns=list(CAUSE_COLUMNS))


def make_card():
    "Return a scorecard: cgvs-2 holds, cgvs-4 does not, ebr-1 does not by one variant, the others are open."
    parts = [
        claim_greater("cgvs-2", "CGVS > center", HOLDS, "table1"),
        claim_greater("cgvs-4", "CGVS > supervised", FAILS, "table2"),
        name_variant(claim_greater("ebr-1", "EB-R > EB", HOLDS, "table1"), "paper"),
        name_variant(claim_greater("ebr-1", "EB-R > EB", FAILS, "table1"), "code"),
    ]
    return scorecard(pd.DataFrame(parts))


@pytest.fixture
def notebooks(tmp_path):
    path = tmp_path / "papers/cgvs/table2.ipynb"
    path.parent.mkdir(parents=True)
    cells = [
        {"cell_type": "markdown", "source": ["## Results\n", "\n", "Text"]},
        {"cell_type": "code", "source": ["# A comment"]},
    ]
    path.write_text(json.dumps({"cells": cells}))
    return tmp_path


def test_the_causes_are_read_and_name_existing_sections():
    assert tuple(claim_causes(notebooks=NOTEBOOKS).columns) == CAUSE_COLUMNS


@pytest.mark.parametrize("name", SCALES)
def test_no_cause_is_of_a_claim_that_holds(name):
    card = pd.read_csv(NOTEBOOKS / f"papers/{name}.csv")
    assert obsolete_causes(card, claim_causes(notebooks=NOTEBOOKS), SCALES[name]) == []


@pytest.mark.parametrize("name", SCALES)
def test_the_committed_words_are_those_of_the_causes(name):
    card = pd.read_csv(NOTEBOOKS / f"papers/{name}.csv")
    expected = explain_verdicts(card, claim_causes(notebooks=NOTEBOOKS), SCALES[name])
    assert card.in_words.tolist() == expected.in_words.tolist()
    assert card.pages.astype(object).fillna("").tolist() == expected.pages.tolist()
    assert card.short.tolist() == paper_claims().short.tolist()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("cgvs-99", "", *TABLE2), "no paper claims"),
        (("cgvs-4", "theirs", *TABLE2), "variant 'theirs'"),
        (("cgvs-4", "", "luck", *TABLE2[1:]), "by 'luck'"),
        (("cgvs-4", "", "method", "", *TABLE2[2:]), "without a sentence"),
        (("cgvs-4", "", *TABLE2[:2], "papers/cgvs/table9", "Results"), "is no notebook"),
        (("cgvs-4", "", *TABLE2[:3], "A comment"), "does not have"),
    ],
)
def test_wrong_rows_are_refused(notebooks, tmp_path, row, message):
    path = tmp_path / "causes.csv"
    make_causes(row).to_csv(path, index=False)
    with pytest.raises(InputError, match=message):
        claim_causes(path, notebooks)


def test_a_claim_is_explained_once_at_a_scale(notebooks, tmp_path):
    path = tmp_path / "causes.csv"
    causes = make_causes(("cgvs-4", "", *TABLE2), ("cgvs-4", "", *TABLE2))
    causes.to_csv(path, index=False)
    with pytest.raises(InputError, match="cgvs-4 twice"):
        claim_causes(path, notebooks)
    causes.assign(scale=["toybox", "sample"]).to_csv(path, index=False)
    assert len(claim_causes(path, notebooks)) == 2


def test_a_missing_or_broken_file_is_refused(notebooks, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        claim_causes(tmp_path / "missing.csv", notebooks)
    (tmp_path / "broken.csv").write_text("claim,cause\n")
    with pytest.raises(InputError, match="has the columns claim, cause"):
        claim_causes(tmp_path / "broken.csv", notebooks)


def test_a_cause_of_a_claim_that_holds_or_is_open_is_obsolete():
    causes = make_causes(("cgvs-2", "", *TABLE2), ("cgvs-4", "", *TABLE2), ("aoa-1", "", *TABLE2))
    assert obsolete_causes(make_card(), causes, "toybox") == ["cgvs-2", "aoa-1"]
    assert obsolete_causes(make_card(), causes, "sample") == []
    by_variant = make_causes(("ebr-1", "paper", *TABLE2), ("ebr-1", "code", *TABLE2))
    assert obsolete_causes(make_card(), by_variant, "toybox") == ["ebr-1, variant 'paper'"]
    assert obsolete_causes(make_card(), make_causes(("ebr-1", "", *TABLE2)), "toybox") == []


def test_verdicts_in_words():
    card = explain_verdicts(make_card(), make_causes(("cgvs-4", "", *TABLE2)), "toybox").set_index("claim")
    assert card.in_words["cgvs-2"] == "holds" and card.pages["cgvs-2"] == ""
    assert card.in_words["cgvs-4"] == "does not hold: the method. The maps are flat."
    assert card.in_words["aoa-1"] == "open"
    words = "as the equations: holds; as the authors' code: does not hold: not yet explained"
    assert card.in_words["ebr-1"] == words


def test_a_cause_of_a_variant_comes_before_that_of_both():
    causes = make_causes(("ebr-1", "", *TABLE2), ("ebr-1", "code", "model", "It is weak.", *TABLE2[2:]))
    card = explain_verdicts(make_card(), causes, "toybox").set_index("claim")
    assert card.in_words["ebr-1"].endswith("does not hold: the model is too weak, or trained too little. It is weak.")


def test_the_scorecard_groups_papers_and_links_experiments():
    card = explain_verdicts(make_card(), make_causes(("cgvs-4", "", *TABLE2)), "toybox")
    lines = scorecard_markdown(card).splitlines()
    short = paper_claims().set_index("claim").short
    assert lines[2] == f"| **cgvs** | {short['cgvs-2']} | **holds** |"
    assert any(
        line.startswith(f"|  | {short['cgvs-4']} | does not hold") and "(papers/cgvs/table2.ipynb)" in line
        for line in lines
    )
    assert [sum(f"**{paper}**" in line for line in lines) for paper in ("cgvs", "ebr", "aoa")] == [1, 1, 1]
    assert all(line.replace(r"\|", "").count("|") == 4 for line in lines)
