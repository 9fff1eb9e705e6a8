"""The way into the reports of a scale: `index.py SCALE REPORTS SECTION ...` writes REPORTS/index.html, from the executed notebooks and the scorecard of the claims."""
import csv, html, sys
from pathlib import Path

import quick
import nbformat

from cgsaliency.core.artefacts import written_whole

PAPERS = {"": "All three", "cgvs": "cgvs: Caption-Guided Visual Saliency", "ebr": "ebr: Excitation Backprop for RNNs", "aoa": "aoa: Areas of Attention"}
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:auto;padding:1rem;color:#222}h1,h2{line-height:1.2}a{color:#0072b2}small{color:#666}
ul{list-style:none;padding:0;display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:1rem}li{border:1px solid #ddd;border-radius:6px;padding:.7rem;overflow-wrap:anywhere}
li img{max-width:100%;max-height:11rem;display:block;margin:.4rem auto 0}table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ddd;padding:.25rem .5rem;text-align:left;vertical-align:top}
.holds{color:#0072b2}.does{color:#b34700}.undecided,.open{color:#666}.wide{overflow-x:auto}"""


def said(path):
    "The title and subtitle of a notebook."
    lines = [line for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    return next((line[2:] for line in lines if line.startswith("# ")), path.stem), next((line[2:] for line in lines if line.startswith("> ")), "")


def entry(reports, section):
    title, about = said(reports / f"{section}.ipynb")
    picture = reports / f"{section}.png"
    more = [f'<a href="{section}.{ending}">{ending}</a>' for ending in ("ipynb", "csv", "pdf") if (reports / f"{section}.{ending}").is_file()]
    return (f'<li><a href="{section}.html"><b>{html.escape(section.rpartition("/")[2])}</b></a> <small>{" ".join(more)}</small><br>{html.escape(title)}<br><small>{html.escape(about)}</small>'
            + (f'<a href="{section}.html"><img src="{section}.png" alt="{html.escape(title)}" loading="lazy"></a>' if picture.is_file() else "") + "</li>")


def scorecard(path):
    if not path.is_file(): return ""
    with path.open(newline="", encoding="utf-8") as file: rows = list(csv.DictReader(file))
    counts = ", ".join(f"{sum(row['verdict'] == verdict for row in rows)} {verdict}" for verdict in ("holds", "does not hold", "undecided", "open") if any(row["verdict"] == verdict for row in rows))
    lines = "".join(f'<tr><td>{row["claim"]}</td><td>{html.escape(row["statement"])}</td><td>{html.escape(row["place"])}</td><td class="{row["verdict"].split()[0]}">{row["verdict"]}</td></tr>' for row in rows)
    return f'<h2>What the papers claim</h2><p>Of {len(rows)} claims: {counts}. <a href="claims.html">The scorecard with effects and intervals.</a></p><div class="wide"><table><tr><th>claim</th><th>what it says</th><th>where</th><th>here</th></tr>{lines}</table></div>'


def main(scale, reports, *sections):
    reports = Path(reports)
    groups = {paper: [section for section in sections if section.rpartition("/")[0] == paper] for paper in PAPERS}
    body = "".join(f"<h2>{name}</h2><ul>{''.join(entry(reports, section) for section in own)}</ul>" for paper, name in PAPERS.items() if (own := groups[paper]))
    with written_whole(reports / "index.html") as part:
        part.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>cgsaliency, scale {scale}</title><style>{STYLE}</style>'
                        f"<h1>Where it looked: reports at scale {scale}</h1>{scorecard(reports / 'claims.csv')}{body}</html>\n", encoding="utf-8")


if __name__ == "__main__": main(*sys.argv[1:])
