"""papers.csv: every table, figure, equation and claim of the papers has a row with an answer, whose notebooks exist."""

import re
from pathlib import Path

import pandas as pd
import pytest

from build_site import wrap_table
from cgsaliency.core.errors import InputError
from cgsaliency.reproduce.claims import paper_claims
from cgsaliency.reproduce.paper_places import PLACES_CSV, paper_places, place_notebooks, places_html
from cgsaliency.reproduce.tables import REPORTED_CSV

NOTEBOOKS = Path(__file__).resolve().parents[2] / "nbs"
NUM_EQUATIONS = {"cgvs": 14, "ebr": 9, "aoa": 7}
NUM_TABLES = {"cgvs": 3, "ebr": 5, "aoa": 4}
NUM_FIGURES = {"cgvs": 5, "ebr": 9, "aoa": 5}
PAPERS = list(NUM_EQUATIONS)


def rows_without_answer(places: pd.DataFrame) -> list[str]:
    "Return the places where an answer is neither 'same' nor 'different', or a reason and a difference do not agree."
    answers = places[["at_paper_scale", "at_toybox"]]
    answered = answers.isin(["same", "different"]).all(axis=1)
    agrees = answers.eq("different").any(axis=1) == places.why.ne("")
    return places.place[~(answered & agrees)].tolist()


def missing_notebooks(places: pd.DataFrame) -> set[str]:
    "Return the notebooks that rows name and that do not exist."
    names = {name for here in places.here for name in place_notebooks(here)}
    return {name for name in names if not (NOTEBOOKS / f"{name}.ipynb").is_file()}


def test_every_row_has_an_answer_and_a_reason_where_it_differs():
    assert rows_without_answer(paper_places()) == []


def test_named_notebooks_exist():
    assert missing_notebooks(paper_places()) == set()


@pytest.mark.parametrize("paper", PAPERS)
def test_every_equation_table_and_figure_has_a_row(paper):
    places = set(paper_places().query("paper == @paper").place)
    numbered = [f"Eq. {number}" for number in range(1, NUM_EQUATIONS[paper] + 1)]
    numbered += [f"table {number}" for number in range(1, NUM_TABLES[paper] + 1)]
    numbered += [f"figure {number}" for number in range(1, NUM_FIGURES[paper] + 1)]
    numbered += ["Algorithm 1"] if paper == "ebr" else []
    assert set(numbered) - places == set()


def test_reported_tables_have_a_row():
    places = paper_places()
    for row in pd.read_csv(REPORTED_CSV, usecols=["paper", "table"]).drop_duplicates().itertuples():
        place = re.sub(r"(?<=[a-z])(?=\d)", " ", row.table)  # 'section 4.2' has several rows, 'table 1' has one
        rows = places.place[places.paper == row.paper]
        assert (rows == place).sum() == 1 or place.startswith("section") and rows.str.startswith(f"{place},").any(), row


def test_claims_have_a_row_of_their_place():
    places = paper_places()
    for claim in paper_claims().itertuples():
        named = claim.place.replace("tables 1 and 2", "table 1").split(",")[0]
        rows = places[places.paper == claim.paper].place
        assert rows.str.startswith(named).any(), f"{claim.claim}: no row for {claim.place}"


@pytest.mark.parametrize("paper", PAPERS)
def test_notebooks_of_tables_and_figures_are_named(paper):
    places = paper_places().query("paper == @paper")
    named = {name for here in places.here for name in place_notebooks(here)}
    paths = [path for kind in ("table", "figure") for path in (NOTEBOOKS / "papers" / paper).glob(f"{kind}*.ipynb")]
    assert paths and {f"papers/{paper}/{path.stem}" for path in paths} - named == set()


def test_the_page_shows_every_row_with_links():
    places = paper_places()
    html = places_html(places, base="../")
    assert html.count("<tr>") == 1 + len(places)
    assert html.count('<a href="../') == sum(len(place_notebooks(here)) for here in places.here)


def test_links_of_the_page_lead_to_pages_of_the_site():
    html = places_html(paper_places())
    on_the_site = wrap_table({"data": {"text/html": html}})["data"]["text/html"]
    assert '<a href="papers/cgvs/table1.ipynb">' in html and '<a href="papers/cgvs/table1.html">' in on_the_site
    assert '.ipynb"' not in on_the_site and on_the_site.startswith('<div class="wide"><table')


@pytest.mark.parametrize(
    "column, value, message",
    [
        ("at_toybox", "", "answers ''"),
        ("at_paper_scale", "almost", "answers 'almost'"),
        ("here", " ", "without 'here'"),
        ("place", "table 2", "lists cgvs, table 2 twice"),
    ],
)
def test_broken_rows_are_rejected(tmp_path, column, value, message):
    places = paper_places()
    places.loc[0, column] = value
    path = tmp_path / "papers.csv"
    places.to_csv(path, index=False)
    with pytest.raises(InputError, match=message):
        paper_places(path)


def test_faults_are_detected():
    places = paper_places(PLACES_CSV)
    assert places.place[0] == "table 1" and places.at_paper_scale[0] == "same"
    assert rows_without_answer(places.assign(at_paper_scale="")) == places.place.tolist()
    assert rows_without_answer(places.head(1).assign(at_paper_scale="different", why="")) == ["table 1"]
    assert missing_notebooks(places.head(1).assign(here="papers/cgvs/table9")) == {"papers/cgvs/table9"}
