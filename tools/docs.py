"""The site: every notebook with its outputs, a reference of all functions, and search, built without network: `docs.py FOLDER [REPORTS/SCALE]`.

Pages of papers show the outputs of that run where it has them, else those that are committed. FOLDER/html/index.html is the way in.
"""
import importlib, re, shutil, sys, warnings
from pathlib import Path

warnings.filterwarnings("ignore")
import quick
import nbformat
from nbdev.showdoc import BasicMarkdownRenderer, show_doc
from sphinx.cmd.build import main as sphinx

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {"explain": "Explain", "models": "Models", "data": "Data", "evaluate": "Evaluate", "show": "Show", "core": "Core", "reproduce": "Reproduce"}
PAPERS = {"cgvs": "Caption-Guided Visual Saliency", "ebr": "Excitation Backprop for RNNs", "aoa": "Areas of Attention"}
DIRECTIVE = re.compile(r"^\s*#\s*\|.*\n?", re.MULTILINE)


def page(notebook):
    "The notebook as it is read: without what only nbdev and papermill need."
    kept = []
    for cell in notebook.cells:
        directives = "".join(DIRECTIVE.findall(cell.source)) if cell.cell_type == "code" else ""
        if "default_exp" in directives or re.search(r"\|\s*hide\b", directives) or "injected-parameters" in cell.metadata.get("tags", []): continue
        if cell.cell_type == "code":
            cell.source = DIRECTIVE.sub("", cell.source).strip("\n")
            if "echo: false" in directives: cell.metadata["tags"] = [*cell.metadata.get("tags", []), "remove-input"]
            cell.outputs = [shown(output) for output in cell.outputs]
            if "parameters" in cell.metadata.get("tags", []): cell.metadata["tags"] = ["hide-cell"]
            if not cell.source: continue
        kept.append(cell)
    notebook.cells = kept
    notebook.metadata.pop("widgets", None)      # whose player would be fetched
    return notebook


def shown(output):
    "The output in one form; tables may be wider than a phone."
    data = output.get("data", {})
    if "text/html" in data and "<table" in data["text/html"]: data["text/html"] = f'<div class="wide">{data["text/html"]}</div>'
    return output


def reference(module):
    "What a module exports, as Markdown."
    loaded = importlib.import_module(module)
    room, name = module.split(".")[1:]
    lines = [f"# {room}.{name}", "", (loaded.__doc__ or "").strip(), "", f"[The notebook](../../{room}/{name}.ipynb) says why.", ""]
    for symbol in loaded.__all__:
        found = getattr(loaded, symbol)
        if not callable(found): lines += [f"## `{symbol}`", "", "```python", f"{symbol} = {repr(found)[:300]}", "```", ""]; continue
        for one, heading in ((found, "##"), *((getattr(found, inner), "###") for inner in vars(found) if isinstance(found, type) and not inner.startswith("_") and callable(getattr(found, inner)) and getattr(getattr(found, inner), "__doc__", None))):
            try: text = show_doc(one, renderer=BasicMarkdownRenderer)._repr_markdown_()
            except Exception: continue          # what inspect cannot read has no signature to show
            text = re.sub(r"^\[source\].*$|^---$", "", text, flags=re.MULTILINE)
            lines += [re.sub(r"^### (.*)$", rf"{heading} `\1`", text.strip(), count=1, flags=re.MULTILINE), ""]
    return "\n".join(lines)


def toctree(caption, pages, depth=1): return "\n".join(["```{toctree}", f":caption: {caption}", f":maxdepth: {depth}", ":hidden:", "", *pages, "```"])


def sections(paper, own):
    "The pages of a paper: its tables first, then figures, then what they need."
    order = lambda name: (not name.startswith("table"), not name.startswith("figure"), name)
    return [f"papers/{paper}/{name}" for name in sorted(own, key=order)]


def source(folder, run):
    "The pages as Sphinx reads them."
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    notebooks = [path.relative_to(ROOT / "nbs") for path in sorted((ROOT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
    for path in notebooks:
        executed = run / path.relative_to("papers") if run and path.parts[0] == "papers" else None
        notebook = page(nbformat.read(executed if executed and executed.is_file() else ROOT / "nbs" / path, 4))
        if path == Path("index.ipynb"):
            trees = [toctree("Begin", ["start_here", "your_own_model", *(["costs"] if Path("costs.ipynb") in notebooks else [])]), toctree("The claims", ["papers/claims", "papers/face_to_face"]), *(toctree(f"{paper}: {title}", sections(paper, [one.stem for one in notebooks if one.parts[:2] == ("papers", paper)])) for paper, title in PAPERS.items()),
                     *(toctree(title, [str(one.with_suffix("")) for one in notebooks if one.parts[0] == room]) for room, title in ROOMS.items()),
                     toctree("Drawn data", [str(one.with_suffix("")) for one in notebooks if one.parts[0] == "papers" and len(one.parts) == 2 and one.stem.startswith("toy")]), toctree("Reference", [f"reference/{room}" for room in ROOMS])]
            notebook.cells.append(nbformat.v4.new_markdown_cell("\n\n".join(trees)))
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, folder / path)
    shutil.copytree(ROOT / "nbs/images", folder / "images", ignore=shutil.ignore_patterns("README_*"))
    modules = sorted(path.relative_to(ROOT).with_suffix("") for path in (ROOT / "cgsaliency").rglob("*.py") if not path.stem.startswith("_"))
    for room in ROOMS:
        names = [module.name for module in modules if module.parts[1] == room]
        (folder / f"reference/{room}").mkdir(parents=True)
        for name in names: (folder / f"reference/{room}/{name}.md").write_text(reference(f"cgsaliency.{room}.{name}"), encoding="utf-8")
        (folder / f"reference/{room}.md").write_text(f"# {room}\n\n```{{toctree}}\n" + "\n".join(f"{room}/{name}" for name in names) + "\n```\n", encoding="utf-8")


def main(folder, run=""):
    folder = Path(folder)
    source(folder / "source", Path(run) if run else None)
    return sphinx(["-b", "html", "-q", "-W", "--keep-going", "-j", "2", "-c", str(ROOT / "tools/site"), "-d", str(folder / "doctrees"), str(folder / "source"), str(folder / "html")])


if __name__ == "__main__": sys.exit(main(*sys.argv[1:]))
