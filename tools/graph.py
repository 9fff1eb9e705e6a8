"""The picture of the run: `graph.py FILE.svg` draws which notebook needs which, at scale toybox. Needs graphviz."""
import re, shutil, subprocess, sys, tempfile

INKS = {"cgvs": "#0072b2", "ebr": "#d55e00", "aoa": "#009e73"}


def main(path):
    if not (shutil.which("dot") and shutil.which("tred")): sys.exit("graphviz is needed (Debian: apt install graphviz)")
    with tempfile.TemporaryDirectory() as folder:
        told = subprocess.run([sys.executable, "-m", "snakemake", "--nolock", "--cores", "1", "--rulegraph", "dot", "--config", "scale=toybox", f"reports={folder}", f"artifacts={folder}"], check=True, capture_output=True, text=True).stdout
    names = {number: name for number, name in re.findall(r'(\d+)\[label = "(\w+)"', told)}
    left_out = {number for number, name in names.items() if name in ("all", "index")}
    lines = ["digraph {", 'rankdir=LR; nodesep=0.08; ranksep=0.35; node[shape=box, style="rounded,filled", fontname="sans-serif", fontsize=11, height=0.28, margin="0.08,0.03", fillcolor=white]; edge[color="#00000055", arrowsize=0.5];']
    for number, name in names.items():
        if number in left_out: continue
        paper, _, item = name.partition("_")
        own = paper in INKS
        finds = not own or re.match(r"table|figure|section|claims|timing|protocol", item)
        lines.append(f'{number}[label="{(paper + " " + item.replace("_", " ")) if own else name.replace("_", " ")}", color="{INKS.get(paper, "#555555")}", penwidth={1 if finds else 2.5}, fillcolor="{"white" if finds else "#f2f2f2"}"];')
    lines += [f"{before} -> {after};" for before, after in re.findall(r"(\d+) -> (\d+)", told) if not {before, after} & left_out]
    reduced = subprocess.run(["tred"], input="\n".join([*lines, "}"]), check=True, capture_output=True, text=True).stdout
    drawn = subprocess.run(["dot", "-Tsvg"], input=reduced, check=True, capture_output=True, text=True).stdout
    with open(path, "w", encoding="utf-8") as file: file.write(re.sub(r"<!--.*?-->\n?", "", drawn, flags=re.DOTALL))


if __name__ == "__main__": main(*sys.argv[1:])
