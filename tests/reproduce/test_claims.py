"""Verdicts of the papers' claims: by variant, at each scale, and every claim is judged by a notebook."""

import base64
import json
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from cgsaliency.evaluate.bootstrap import Interval
from cgsaliency.explain.excitation_rnn import VARIANTS
from cgsaliency.reproduce.claims import claim_greater, name_variant, paper_claims, plot_scorecard, scorecard
from cgsaliency.reproduce.sync_outputs import sync_reports

PAPERS = Path(__file__).resolve().parents[2] / "nbs/papers"
DIFFERENCES = {
    "holds": Interval(2.0, 1.0, 3.0, 80),
    "undecided": Interval(1.0, -1.0, 3.0, 80),
    "does not hold": Interval(-2.0, -3.0, -1.0, 80),
}


def test_every_claim_is_judged_by_a_notebook():
    code = ""
    for path in PAPERS.rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code += "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert [claim for claim in paper_claims().claim if f'"{claim}"' not in code] == []


@pytest.mark.parametrize("paper_verdict", DIFFERENCES)
@pytest.mark.parametrize("code_verdict", DIFFERENCES)
@pytest.mark.parametrize("common_verdict", DIFFERENCES)
def test_a_variant_is_judged_by_its_parts_and_those_of_no_variant(paper_verdict, code_verdict, common_verdict):
    order = list(DIFFERENCES)
    parts = [claim_greater("ebr-1", "BP-R > BP", DIFFERENCES[common_verdict], "table1")]
    for variant, verdict in zip(VARIANTS, (paper_verdict, code_verdict), strict=True):
        part = claim_greater("ebr-1", "EB-R > EB", DIFFERENCES[verdict], "table1")
        parts.append(name_variant(part, variant))
    row = scorecard(pd.DataFrame(parts)).set_index("claim").loc["ebr-1"]
    assert row.verdict_paper == max(paper_verdict, common_verdict, key=order.index)
    assert row.verdict_code == max(code_verdict, common_verdict, key=order.index)
    assert row.verdict == max(row.verdict_paper, row.verdict_code, key=order.index) and row.parts == 3


def test_claims_without_variants_have_no_verdict_by_variant():
    part = claim_greater("cgvs-2", "CGVS > center", DIFFERENCES["holds"], "table1")
    card = scorecard(pd.DataFrame([part])).set_index("claim")
    assert card.loc["cgvs-2", ["verdict", "verdict_paper", "verdict_code"]].tolist() == ["holds", "", ""]
    assert (card.drop("cgvs-2").verdict == "open").all()


def test_the_marks_of_variants_do_not_overlap():
    part = claim_greater("ebr-1", "EB-R > EB", DIFFERENCES["holds"], "table1")
    axes = plot_scorecard(pd.DataFrame([name_variant(part, variant) for variant in VARIANTS]))
    paper_mark, code_mark = axes.lines[:2]
    assert paper_mark.get_xdata()[0] == code_mark.get_xdata()[0]
    assert paper_mark.get_ydata()[0] < code_mark.get_ydata()[0]


def test_verdicts_of_other_scales_are_copied(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(b"an image").decode()})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[image])])
    for folder in ("nbs/papers/cgvs", "nbs/images", "reports/large/cgvs", "reports/small"):
        Path(folder).mkdir(parents=True)
    for path in ("nbs/papers/cgvs/table1.ipynb", "reports/large/cgvs/table1.ipynb"):
        nbformat.write(notebook, path)
    Path("reports/large/claims.csv").write_text("large\n")
    sync_reports("reports", "large", "small")
    assert [path.name for path in Path("nbs/papers").glob("*.csv")] == ["claims.csv"]
    Path("reports/small/claims.csv").write_text("small\n")
    sync_reports("reports", "large", "small")
    assert Path("nbs/papers/claims.csv").read_text() == "large\n"
    assert Path("nbs/papers/claims_small.csv").read_text() == "small\n"
