"""What holds for the project as a whole: notebooks and package, the order of the rooms, what may be committed."""
import ast, json, re, subprocess, sys
from configparser import ConfigParser
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, NOTEBOOKS = ROOT / "cgsaliency", ROOT / "nbs"
ROOMS = ("core", "data", "models", "explain", "evaluate", "show", "reproduce")  # imports run down this list
BLIND = {"explain", "evaluate"}  # know models by their contract only

notebooks = sorted(path for path in NOTEBOOKS.rglob("*.ipynb")
                   if not any(part.startswith((".", "_")) for part in path.relative_to(NOTEBOOKS).parts))
papers = [path for path in notebooks if path.is_relative_to(NOTEBOOKS / "papers")]
library = [path for path in notebooks if path not in papers]
modules = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "_modidx.py"))


def named(path: Path) -> str: return path.relative_to(ROOT).as_posix()
def each(paths: list[Path]): return pytest.mark.parametrize("path", paths, ids=named)


@cache
def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell: dict) -> str: return "".join(cell["source"])


def said(path: Path) -> str:
    "Everything that a reader of the notebook sees as text: sources and outputs, no pictures."
    texts = [source(cell) for cell in cells(path)]
    for cell in cells(path):
        for output in cell.get("outputs", []):
            texts += [*output.get("text", []), *output.get("traceback", [])]
            texts += ["".join(data) for kind, data in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(texts)


def made_by_notebook(path: Path) -> str | None:
    "The module that a notebook exports, as core.errors."
    found = re.findall(r"^#\s*\|\s*default_exp\s+(\S+)", "\n".join(source(cell) for cell in cells(path) if cell["cell_type"] == "code"), re.MULTILINE)
    assert len(found) <= 1, f"{named(path)} has {len(found)} default_exp directives; a notebook makes one module"
    return found[0] if found else None


@cache
def tracked() -> tuple[Path, ...]:
    "The files of the project: those that git knows or would add, else all that are not made."
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
        found = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        made = {".venv", ".make", ".snakemake", ".pytest_cache", "reports", "artifacts", "build", "dist", "cgsaliency.egg-info"}
        found = [path for top in ROOT.iterdir() if top.name not in made for path in [top, *top.rglob("*")] if "__pycache__" not in path.parts]
    return tuple(path for path in found if path.is_file())


def texts() -> dict[str, str]:
    "Name and text of every tracked text file; of a notebook what it says."
    found = {}
    for path in tracked():
        if path.suffix == ".ipynb": found[named(path)] = said(path)
        else:
            try: found[named(path)] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError: pass  # pictures and the like
    return found


def mentions(pattern: str, where: dict[str, str]) -> list[str]:
    return [f"{name}: {line.strip()[:120]}" for name, text in where.items() for line in text.splitlines() if re.search(pattern, line)]


# Notebooks and package

def test_every_module_has_its_notebook():
    made = {made_by_notebook(path): path for path in notebooks if made_by_notebook(path)}
    there = {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in modules}
    assert there - made.keys() == set(), "modules without a notebook: delete them"
    assert made.keys() - there == set(), "notebooks without their module: run nbdev_export"
    for module, path in made.items():
        assert path.relative_to(NOTEBOOKS).with_suffix("").as_posix() == module.replace(".", "/"), f"{named(path)} makes {module}, which stands elsewhere"


@each(papers)
def test_a_paper_notebook_has_one_cell_of_parameters(path):
    tagged = [cell for cell in cells(path) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1, "papermill sets the one cell tagged 'parameters'; without it, values given are lost in silence"
    assert tagged[0]["cell_type"] == "code"


def test_papermill_and_not_nbdev_test_runs_the_paper_notebooks():
    for folder in {path.parent for path in papers}: assert (folder / ".notest").is_file(), f"{named(folder)} lacks an empty .notest: nbdev_test looks for one in each folder"


def test_the_kernel_is_anybodys():
    for path in notebooks:
        assert json.loads(path.read_text())["metadata"]["kernelspec"]["name"] == "python3", named(path)


def displays(cell: dict) -> bool:
    "Whether the code cell ends in a value that is not the result of a call, and so has to show it."
    text = source(cell)
    if re.search(r"^#\s*\|\s*(eval\s*:\s*false|export|hide|slow|gpu|data)\b", text, re.MULTILINE) or text.rstrip().endswith(";"): return False
    body = ast.parse(re.sub(r"^\s*[%!].*", "", text, flags=re.MULTILINE)).body
    return bool(body) and isinstance(body[-1], ast.Expr) and not isinstance(body[-1].value, (ast.Call, ast.Await)) \
        and not (isinstance(body[-1].value, ast.Constant) and body[-1].value.value is None)


@each(library)
def test_a_library_notebook_is_committed_executed(path):
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    empty = [source(cell) for cell in code if displays(cell) and not cell["outputs"]]
    assert not empty, "cells without the output they display (run: make notebooks)"
    assert not code or any(cell["outputs"] for cell in code), "nothing is shown (run: make notebooks)"


@each(notebooks)
def test_a_notebook_carries_nothing_that_ages(path):
    assert path.stat().st_size <= 1_500_000, "over 1.5 MB"
    assert mentions(r"Warning:|Traceback \(most recent", {named(path): said(path)}) == []
    assert [cell["outputs"] for cell in cells(path) if any(output["output_type"] == "error" for output in cell.get("outputs", []))] == []
    for cell in cells(path):
        for output in cell.get("outputs", []):
            for kind, data in output.get("data", {}).items():
                if kind.startswith("image/"): assert len("".join(data)) * (1 if "svg" in kind else 0.75) <= 150_000, f"{kind} over 150 kB after: {source(cell)[:200]}"


# The package

def room_of(path: Path) -> str: return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path, everywhere: bool = True) -> set[str]:
    "All modules that the file imports (at its top level, or everywhere), relative ones with their whole name."
    here, found = ["cgsaliency", *path.relative_to(PACKAGE).parent.parts], set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import): found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            base = ".".join([*(here[:len(here) + 1 - node.level] if node.level else []), *filter(None, [node.module])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)} if base.startswith("cgsaliency") else {base}
    return found


@each(modules)
def test_imports_run_one_way(path):
    room = room_of(path)
    assert room in ROOMS, f"'{room}' is none of the rooms {', '.join(ROOMS)}"
    used = {name.split(".")[1] for name in imported(path) if name.startswith("cgsaliency.")} & set(ROOMS)
    upward = {other for other in used if ROOMS.index(other) > ROOMS.index(room)}
    assert not upward, f"{room} imports from {', '.join(sorted(upward))}"
    assert not (room in BLIND and "models" in used), f"{room} knows models by their contract (core.contracts), not by name"


def test_what_the_package_imports_is_what_it_requires():
    settings = ConfigParser(delimiters=["="], interpolation=None)
    settings.read(ROOT / "settings.ini")
    required = {re.split(r"[<>=!~\[;]", name)[0].lower() for name in settings["DEFAULT"]["requirements"].split()}
    of = packages_distributions()
    used = {name.split(".")[0] for path in modules for name in imported(path, everywhere=False)} - set(sys.stdlib_module_names) - {"cgsaliency"}
    missing = {name for name in used if not required & {one.lower() for one in of.get(name, [name])}}
    assert not missing, f"add to requirements in settings.ini: {', '.join(sorted(missing))}"


def public(path: Path):
    "Public functions, classes and methods of a module, with their names."
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"): continue
        yield node.name, node, False
        if isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{inner.name}", inner, True) for inner in node.body if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef))
                        and (not inner.name.startswith("_") or inner.name in ("__init__", "__call__")))


@each(modules)
def test_what_is_public_says_what_it_gives_and_takes(path):
    silent, bare = [], []
    for name, node, of_class in public(path):
        if not ast.get_docstring(node) and not name.endswith(("__", ".forward")): silent.append(name)
        if isinstance(node, ast.ClassDef): continue
        static = any(isinstance(one, ast.Name) and one.id == "staticmethod" for one in node.decorator_list)
        given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs + [one for one in (node.args.vararg, node.args.kwarg) if one]
        bare += [f"{name}({one.arg})" for one in given[1 if of_class and not static else 0:] if one.annotation is None]
    assert (silent, bare) == ([], []), "without a docstring; parameters without a type"


# Everything that is committed

def test_no_path_of_one_machine():
    kept = {name: text for name, text in texts().items() if name.split("/")[0] in ("nbs", "cgsaliency", "tests", "tools", "data_scripts", "benchmarks", "README.md", "Makefile", "Snakefile", ".ci", ".githooks", "requirements.lock")}
    assert mentions(r"(?<![\w.:/-])/(tmp|root|home|work|Users)/", kept) == []


def test_nothing_is_left_for_later():
    assert mentions(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b", texts()) == []


def test_no_package_registry_is_named():
    hosts = ["pypi" + ".org", "python" + "hosted.org", "download." + "pytorch.org", "registry." + "npmjs.org", "conda" + ".anaconda.org", "index-" + "url =", "/opt/" + "pypi"]
    assert mentions("|".join(map(re.escape, hosts)), texts()) == []


def test_no_file_is_big():
    assert [named(path) for path in tracked() if path.stat().st_size > 3_000_000] == []
