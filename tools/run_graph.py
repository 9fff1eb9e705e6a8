"""Draw the dependency graph of the notebooks at scale toybox: `run_graph.py FILE.svg`. Needs graphviz."""

import re
import shutil
import subprocess
import sys
import tempfile

PAPER_COLORS = {"cgvs": "#0072b2", "ebr": "#d55e00", "aoa": "#009e73"}


def run(command, stdin=None):
    "Run the command and return its output."
    return subprocess.run(command, input=stdin, check=True, capture_output=True, text=True).stdout


def main(path):
    "Write the graph as an SVG file."
    if not (shutil.which("dot") and shutil.which("tred")):
        sys.exit("graphviz is needed (Debian: apt install graphviz)")
    with tempfile.TemporaryDirectory() as folder:
        config = ["scale=toybox", f"reports={folder}", f"artifacts={folder}"]
        snakemake = [sys.executable, "-m", "snakemake", "--nolock", "--cores", "1", "--rulegraph", "dot"]
        graph = run([*snakemake, "--config", *config])
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', graph))
    omitted = {number for number, name in names.items() if name in ("all", "index")}
    lines = [
        "digraph {",
        (
            'rankdir=LR; nodesep=0.08; ranksep=0.35; node[shape=box, style="rounded,filled", fontname="sans-serif",'
            ' fontsize=11, height=0.28, margin="0.08,0.03", fillcolor=white]; edge[color="#00000055", arrowsize=0.5];'
        ),
    ]
    for number, name in names.items():
        if number in omitted:
            continue
        paper, _, item = name.partition("_")
        # notebooks that only write artifacts have a thick frame
        is_result = paper not in PAPER_COLORS or re.match(r"table|figure|section|claims|timing|protocol", item)
        lines.append(
            f'{number}[label="{name.replace("_", " ")}",'
            f' color="{PAPER_COLORS.get(paper, "#555555")}", penwidth={1 if is_result else 2.5},'
            f' fillcolor="{"white" if is_result else "#f2f2f2"}"];'
        )
    lines += [
        f"{before} -> {after};"
        for before, after in re.findall(r"(\d+) -> (\d+)", graph)
        if not {before, after} & omitted
    ]
    svg = run(["dot", "-Tsvg"], run(["tred"], "\n".join([*lines, "}"])))
    with open(path, "w", encoding="utf-8") as file:
        file.write(re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL))


if __name__ == "__main__":
    main(*sys.argv[1:])
