"""Build the site: every notebook with its outputs, a reference of all functions, and search; no network is needed.

Usage: `build_site.py FOLDER [REPORTS/SCALE]`. Pages of papers show the outputs of that run where it has them, else
those that are committed. FOLDER/html/index.html is the first page."""

import ast
import importlib
import re
import shutil
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
import nbformat
from nbdev.showdoc import BasicMarkdownRenderer, show_doc
from sphinx.cmd.build import main as sphinx

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "explain": "Explain",
    "models": "Models",
    "features": "Features",
    "train": "Train",
    "data": "Data",
    "synth": "Synthetic data",
    "toy": "Toy models",
    "evaluate": "Evaluate",
    "show": "Show",
    "core": "Core",
    "reproduce": "Reproduce",
    "app": "Commands and explorer",
}
PAPERS = {"cgvs": "Caption-Guided Visual Saliency", "ebr": "Excitation Backprop for RNNs", "aoa": "Areas of Attention"}
DIRECTIVE = re.compile(r"^\s*#\s*\|.*\n?", re.MULTILINE)


def page(notebook):
    "Remove what only nbdev and papermill need from the notebook, fold cells, and return it."
    cells = []
    for cell in notebook.cells:
        directives = "".join(DIRECTIVE.findall(cell.source)) if cell.cell_type == "code" else ""
        if (
            "default_exp" in directives
            or re.search(r"\|\s*hide\b", directives)
            or "injected-parameters" in cell.metadata.get("tags", [])
        ):
            continue
        if cell.cell_type == "code":
            cell.source = DIRECTIVE.sub("", cell.source).strip("\n")
            if "echo: false" in directives:
                cell.metadata["tags"] = [*cell.metadata.get("tags", []), "remove-input"]
            cell.outputs = [wrap_table(output) for output in cell.outputs]
            if "parameters" in cell.metadata.get("tags", []):
                cell.metadata["tags"] = ["hide-cell"]
            elif is_import_cell(cell.source):
                cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-input"]
            if not cell.source:
                continue
        cells.append(cell)
    notebook.cells = cells
    notebook.metadata.pop("widgets", None)  # their player would be downloaded
    return notebook


def is_import_cell(code):
    "Return whether the cell holds nothing but imports."
    try:
        statements = ast.parse(code).body
    except SyntaxError:  # a magic
        return False
    return bool(statements) and all(isinstance(statement, (ast.Import, ast.ImportFrom)) for statement in statements)


def wrap_table(output):
    """Wrap an HTML table in an element that scrolls, because it may be wider than a phone, and return the output.

    Its links to notebooks lead to their pages."""
    data = output.get("data", {})
    if "text/html" in data and "<table" in data["text/html"]:
        table = re.sub(r'(<a href="[^":]+)\.ipynb"', r'\1.html"', data["text/html"])
        data["text/html"] = f'<div class="wide">{table}</div>'
    return output


def reference(module):
    "Return the documentation of a module's exports as Markdown."
    loaded = importlib.import_module(module)
    room, name = module.split(".")[1:]
    lines = [
        f"# {room}.{name}",
        "",
        (loaded.__doc__ or "").strip(),
        "",
        f"[The notebook](../../{room}/{name}.ipynb) explains the module.",
        "",
    ]
    for name in loaded.__all__:
        value = getattr(loaded, name)
        if not callable(value):
            lines += [f"## `{name}`", "", "```python", f"{name} = {repr(value)[:300]}", "```", ""]
            continue
        documented = [(value, "##"), *((method, "###") for method in public_methods(value))]
        for function, heading in documented:
            try:
                text = show_doc(function, renderer=BasicMarkdownRenderer)._repr_markdown_()
            except Exception:
                continue  # inspect finds no signature
            text = re.sub(r"^\[source\].*$|^---$", "", text, flags=re.MULTILINE)
            lines += [re.sub(r"^### (.*)$", rf"{heading} `\1`", text.strip(), count=1, flags=re.MULTILINE), ""]
    return "\n".join(lines)


def public_methods(value):
    "Return the documented public methods of a class; none of a function."
    if not isinstance(value, type):
        return []
    members = [getattr(value, name) for name in vars(value) if not name.startswith("_")]
    return [member for member in members if callable(member) and getattr(member, "__doc__", None)]


def toctree(caption, pages, depth=1):
    "Return a hidden table of contents in Markdown."
    return "\n".join(["```{toctree}", f":caption: {caption}", f":maxdepth: {depth}", ":hidden:", "", *pages, "```"])


def paper_pages(paper, names):
    "Return the pages of a paper: its tables first, then figures, then the notebooks that they depend on."

    def order(name):
        return not name.startswith("table"), not name.startswith("figure"), name

    return [f"papers/{paper}/{name}" for name in sorted(names, key=order)]


def contents(notebooks):
    "Return the tables of contents of all notebooks."
    begin = ["start_here", "choosing_a_method", "your_own_model", "troubleshooting", "reading_list", "costs"]
    trees = [
        toctree("Begin", begin),
        toctree("Results of the three papers", ["papers_and_here", "papers/claims", "papers/method_comparison"]),
    ]
    for paper, title in PAPERS.items():
        names = [path.stem for path in notebooks if path.parts[:2] == ("papers", paper)]
        trees.append(toctree(f"{paper}: {title}", paper_pages(paper, names)))
    for room, title in ROOMS.items():
        trees.append(toctree(title, [str(path.with_suffix("")) for path in notebooks if path.parts[0] == room]))
    top_level = [path for path in notebooks if path.parts[0] == "papers" and len(path.parts) == 2]
    synthetic = [str(path.with_suffix("")) for path in top_level if path.stem.startswith("synth")]
    trees.append(toctree("Synthetic data sets", synthetic))
    trees.append(toctree("Reference", [f"reference/{room}" for room in ROOMS]))
    return "\n\n".join(trees)


def write_source(folder, run):
    "Write the pages as Sphinx reads them."
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    notebooks = [
        path.relative_to(ROOT / "nbs")
        for path in sorted((ROOT / "nbs").rglob("*.ipynb"))
        if ".ipynb_checkpoints" not in path.parts
    ]
    for path in notebooks:
        executed = run / path.relative_to("papers") if run and path.parts[0] == "papers" else None
        notebook = page(nbformat.read(executed if executed and executed.is_file() else ROOT / "nbs" / path, 4))
        if path == Path("index.ipynb"):
            notebook.cells.append(nbformat.v4.new_markdown_cell(contents(notebooks)))
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, folder / path)
    shutil.copytree(ROOT / "nbs/images", folder / "images", ignore=shutil.ignore_patterns("README_*"))
    modules = sorted(
        path.relative_to(ROOT).with_suffix("")
        for path in (ROOT / "cgsaliency").rglob("*.py")
        if not path.stem.startswith("_")
    )
    for room in ROOMS:
        names = [module.name for module in modules if module.parts[1] == room]
        (folder / f"reference/{room}").mkdir(parents=True)
        for name in names:
            text = reference(f"cgsaliency.{room}.{name}")
            (folder / f"reference/{room}/{name}.md").write_text(text, encoding="utf-8")
        text = f"# {room}\n\n```{{toctree}}\n" + "\n".join(f"{room}/{name}" for name in names) + "\n```\n"
        (folder / f"reference/{room}.md").write_text(text, encoding="utf-8")


def main(folder, run=""):
    "Write the pages, run Sphinx, and return its exit code."
    folder = Path(folder)
    write_source(folder / "source", Path(run) if run else None)
    options = ["-b", "html", "-q", "-W", "--keep-going", "-j", "2", "-c", str(ROOT / "tools/site")]
    return sphinx([*options, "-d", str(folder / "doctrees"), str(folder / "source"), str(folder / "html")])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
