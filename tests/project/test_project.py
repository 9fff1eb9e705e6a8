"""The project as a whole: notebooks and package, requirements, documentation, and what may be committed."""

import ast
import json
import re
import subprocess
import sys
from configparser import ConfigParser
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, NOTEBOOKS = ROOT / "cgsaliency", ROOT / "nbs"

NOTEBOOK_PATHS = sorted(
    path
    for path in NOTEBOOKS.rglob("*.ipynb")
    if not any(part.startswith((".", "_")) for part in path.relative_to(NOTEBOOKS).parts)
)
PAPER_PATHS = [path for path in NOTEBOOK_PATHS if path.is_relative_to(NOTEBOOKS / "papers")]
LIBRARY_PATHS = [path for path in NOTEBOOK_PATHS if path not in PAPER_PATHS]
MODULE_PATHS = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "_modidx.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def for_each(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=name_of)


@cache
def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def visible_text(path: Path) -> str:
    "Return the text of a notebook: sources and text outputs."
    text_files = [source(cell) for cell in cells(path)]
    for cell in cells(path):
        for output in cell.get("outputs", []):
            text_files += [*output.get("text", []), *output.get("traceback", [])]
            text_files += ["".join(data) for kind, data in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(text_files)


def exported_module(path: Path) -> str | None:
    "Return the module that a notebook exports, such as core.errors."
    directives = re.findall(
        r"^#\s*\|\s*default_exp\s+(\S+)",
        "\n".join(source(cell) for cell in cells(path) if cell["cell_type"] == "code"),
        re.MULTILINE,
    )
    assert len(directives) <= 1, (
        f"{name_of(path)} has {len(directives)} default_exp directives; a notebook makes one module"
    )
    return directives[0] if directives else None


@cache
def tracked_files() -> tuple[Path, ...]:
    "Return the files of the project: tracked by git or not ignored; without git, all that are not generated."
    if (ROOT / ".git").exists():
        completed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        paths = [ROOT / name for name in completed.stdout.split("\0") if name]
    else:
        generated = {
            ".venv",
            ".make",
            ".snakemake",
            ".pytest_cache",
            ".ruff_cache",
            "reports",
            "artifacts",
            "build",
            "dist",
            "cgsaliency.egg-info",
        }
        paths = [
            path
            for top in ROOT.iterdir()
            if top.name not in generated
            for path in [top, *top.rglob("*")]
            if "__pycache__" not in path.parts
        ]
    return tuple(path for path in paths if path.is_file())


def text_files() -> dict[str, str]:
    "Return name and text of every text file, and of every notebook its visible text."
    texts_ = {}
    for path in tracked_files():
        if path.suffix == ".ipynb":
            texts_[name_of(path)] = visible_text(path)
        else:
            try:
                texts_[name_of(path)] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                pass  # images and other binary files
    return texts_


def mentions(pattern: str, texts: dict[str, str]) -> list[str]:
    return [
        f"{name}: {line.strip()[:120]}"
        for name, text in texts.items()
        for line in text.splitlines()
        if re.search(pattern, line)
    ]


# Notebooks and package


def test_every_module_has_its_notebook():
    notebook_of_module = {exported_module(path): path for path in NOTEBOOK_PATHS if exported_module(path)}
    module_names = {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in MODULE_PATHS}
    assert module_names - notebook_of_module.keys() == set(), "modules without a notebook: delete them"
    assert notebook_of_module.keys() - module_names == set(), "notebooks without their module: run nbdev_export"
    for module, path in notebook_of_module.items():
        assert path.relative_to(NOTEBOOKS).with_suffix("").as_posix() == module.replace(".", "/"), (
            f"{name_of(path)} makes {module}, which stands elsewhere"
        )


@for_each(PAPER_PATHS)
def test_paper_notebooks_have_one_parameters_cell(path):
    tagged = [cell for cell in cells(path) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1, (
        "papermill sets the one cell tagged 'parameters'; without it, values given are lost in silence"
    )
    assert tagged[0]["cell_type"] == "code"


def test_nbdev_test_skips_paper_notebooks():
    for folder in {path.parent for path in PAPER_PATHS}:
        assert (folder / ".notest").is_file(), (
            f"{name_of(folder)} lacks an empty .notest: nbdev_test looks for one in each folder"
        )


def test_notebooks_have_the_kernel_python3():
    for path in NOTEBOOK_PATHS:
        assert json.loads(path.read_text())["metadata"]["kernelspec"]["name"] == "python3", name_of(path)


def must_display(cell: dict) -> bool:
    "Return whether a code cell ends with an expression that is not a call, and so has an output."
    text = source(cell)
    if re.search(
        r"^#\s*\|\s*(eval\s*:\s*false|export|hide|slow|gpu|data)\b", text, re.MULTILINE
    ) or text.rstrip().endswith(";"):
        return False
    body = ast.parse(re.sub(r"^\s*[%!].*", "", text, flags=re.MULTILINE)).body
    return (
        bool(body)
        and isinstance(body[-1], ast.Expr)
        and not isinstance(body[-1].value, (ast.Call, ast.Await))
        and not (isinstance(body[-1].value, ast.Constant) and body[-1].value.value is None)
    )


@for_each(LIBRARY_PATHS)
def test_library_notebooks_are_executed(path):
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    empty = [source(cell) for cell in code if must_display(cell) and not cell["outputs"]]
    assert not empty, "cells without the output they display (run: make notebooks)"
    assert not code or any(cell["outputs"] for cell in code), "nothing is shown (run: make notebooks)"


@for_each(NOTEBOOK_PATHS)
def test_notebooks_are_small_and_have_no_warnings_and_errors(path):
    assert path.stat().st_size <= 1_500_000, "over 1.5 MB"
    assert mentions(r"Warning:|Traceback \(most recent", {name_of(path): visible_text(path)}) == []
    assert [
        cell["outputs"]
        for cell in cells(path)
        if any(output["output_type"] == "error" for output in cell.get("outputs", []))
    ] == []
    for cell in cells(path):
        for output in cell.get("outputs", []):
            for kind, data in output.get("data", {}).items():
                if kind.startswith("image/"):
                    assert len("".join(data)) * (1 if "svg" in kind else 0.75) <= 150_000, (
                        f"{kind} over 150 kB after: {source(cell)[:200]}"
                    )


# The package


def imported_modules(path: Path, nested: bool = True) -> set[str]:
    "Return absolute names of the modules that a file imports, at its top level or also in functions."
    package, names = ["cgsaliency", *path.relative_to(PACKAGE).parent.parts], set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if nested else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            base = ".".join(
                [*(package[: len(package) + 1 - node.level] if node.level else []), *filter(None, [node.module])]
            )
            names |= (
                {base, *(f"{base}.{alias.name}" for alias in node.names)} if base.startswith("cgsaliency") else {base}
            )
    return names


def test_imported_packages_are_required():
    settings = ConfigParser(delimiters=["="], interpolation=None)
    settings.read(ROOT / "settings.ini")
    required = {re.split(r"[<>=!~\[;]", name)[0].lower() for name in settings["DEFAULT"]["requirements"].split()}
    distributions_of = packages_distributions()
    imported = (
        {name.split(".")[0] for path in MODULE_PATHS for name in imported_modules(path, nested=False)}
        - set(sys.stdlib_module_names)
        - {"cgsaliency"}
    )
    missing = {
        name
        for name in imported
        if not required & {distribution.lower() for distribution in distributions_of.get(name, [name])}
    }
    assert not missing, f"add to requirements in settings.ini: {', '.join(sorted(missing))}"


def public_symbols(path: Path):
    "Yield name, node, and whether it is a method, of the public functions, classes and methods of a module."
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        yield node.name, node, False
        if isinstance(node, ast.ClassDef):
            yield from (
                (f"{node.name}.{inner.name}", inner, True)
                for inner in node.body
                if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef))
                and (not inner.name.startswith("_") or inner.name in ("__init__", "__call__"))
            )


@for_each(MODULE_PATHS)
def test_public_functions_have_docstrings_and_typed_parameters(path):
    without_docstring, without_type = [], []
    for name, node, is_method in public_symbols(path):
        if not ast.get_docstring(node) and not name.endswith(("__", ".forward")):
            without_docstring.append(name)
        if isinstance(node, ast.ClassDef):
            continue
        is_static = any(
            isinstance(argument, ast.Name) and argument.id == "staticmethod" for argument in node.decorator_list
        )
        arguments = (
            node.args.posonlyargs
            + node.args.args
            + node.args.kwonlyargs
            + [argument for argument in (node.args.vararg, node.args.kwarg) if argument]
        )
        without_type += [
            f"{name}({argument.arg})"
            for argument in arguments[1 if is_method and not is_static else 0 :]
            if argument.annotation is None
        ]
    assert (without_docstring, without_type) == ([], []), "without a docstring; parameters without a type"


# Everything that is committed


def test_no_machine_paths():
    texts_ = {
        name: text
        for name, text in text_files().items()
        if name.split("/")[0]
        in (
            "nbs",
            "cgsaliency",
            "tests",
            "tools",
            "data_scripts",
            "benchmarks",
            "README.md",
            "Makefile",
            "Snakefile",
            ".ci",
            ".githooks",
            "requirements.lock",
        )
    }
    assert mentions(r"(?<![\w.:/-])/(tmp|root|home|work|Users)/", texts_) == []


def test_no_open_tasks():
    assert mentions(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b", text_files()) == []


def test_no_package_registry_is_named():
    hosts = [
        "pypi" + ".org",
        "python" + "hosted.org",
        "download." + "pytorch.org",
        "registry." + "npmjs.org",
        "conda" + ".anaconda.org",
        "index-" + "url =",
        "/opt/" + "pypi",
    ]
    assert mentions("|".join(map(re.escape, hosts)), text_files()) == []


def test_files_are_small():
    assert [name_of(path) for path in tracked_files() if path.stat().st_size > 3_000_000] == []
