"""Names and layout: unique exported names, imports in one direction, titled notebooks, and the words of the field.

Each check is a function from a folder to a list of messages, so that tests can also show that it fails.
"""

import ast
import json
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A room imports from itself and from the rooms before it.
ROOMS = (
    "core",
    "data",
    "synth",
    "features",
    "toy",
    "models",
    "train",
    "explain",
    "evaluate",
    "show",
    "reproduce",
    "app",
)
# Narrower than the order: these know models by their protocols (core.protocols) only, and toy is a leaf.
ONLY = {
    "toy": {"core", "data"},
    "explain": {"core"},
    "evaluate": {"core", "explain"},
    "show": {"core", "data"},
}
DRAWING = ("matplotlib", "seaborn")  # core draws nothing

# Words with a standard word instead: video, image, RegionCaptioner, RegionEncoder, actor, extractor, activation, ...
WORDS = set(
    "film films picture pictures looker lookers eyes athlete athletes describer describers squash squashed recipe"
    " recipes toyfilms toyacts toycoco".split()
)
# Idioms with a standard term instead: frozen, fine-tuned, at random, custom, reference implementation.
PHRASES = r"stands? still|stood still|learns?, too|by chance|one's own|obvious loops?"
# British spellings; code and prose are American.
STEMS_OF_ISE = (
    "author|binar|categor|central|character|color|critic|custom|discret|emphas|equal|final|formal|general|ideal|initial"
    "|item|local|maxim|memor|minim|neutral|normal|optim|organ|parameter|parametr|penal|popular|priorit|quant|random"
    "|raster|rational|real|recogn|regular|serial|special|stabil|standard|summar|symbol|synchron|token|util|vector"
    "|visual"
)
BRITISH = (
    rf"(?:{STEMS_OF_ISE})is(?:e|ed|es|er|ers|ing|ation|ations|able)\b"
    r"|colour|centre|grey|neighbour|behaviour|favour|artefact|labell|modell|cancell(?!ation)|travell|catalogue"
    r"|judgement|whilst|analys(?:e|ed|ing)\b|centr(?:ed|ing)\b|licences?\b|fulfils?\b"
)
# Quotations in modules and their notebooks that stay, and why.
SEED, WRITTEN = "seeds the generator: it decides the synthetic data", "is written into the synthetic data"
ALLOWED = [
    ("synth/scenes", '"grey"', WRITTEN),
    ("synth/videos", 'Random(f"cgsaliency/film/', SEED),
]

# Parameters and fields have the words of the field: batch_size, reduction, loss, rng, target_layer, split, ...
PARAMETERS = set(
    "passes together by form chance kept at signal winning cut most least smallest part family broken none there where"
    " what remedy learns held more said told sizes recipe squash attending hidden number place stop rate stamps own one"
    " given some made asked".split()
)
# Variables say what the thing is: row, mask, explanation, caption.
VARIABLES = set("own one found given some made asked said told chance kept".split())


def modules(root: Path) -> list[Path]:
    skip = ("__init__.py", "_modidx.py")
    return sorted(path for path in (root / "cgsaliency").rglob("*.py") if path.name not in skip)


def notebooks(root: Path) -> list[Path]:
    def hidden(path: Path) -> bool:
        return any(part.startswith((".", "_")) for part in path.relative_to(root).parts)

    return sorted(path for path in (root / "nbs").rglob("*.ipynb") if not hidden(path))


def scripts(root: Path) -> list[Path]:
    folders = ("tests", "tools", "benchmarks", "data_scripts", "profiles")
    paths = [path for folder in folders for path in (root / folder).rglob("*.py")]
    return sorted(path for path in [*paths, *root.glob("*.py")] if path != Path(__file__).resolve())


def settings_files(root: Path) -> list[Path]:
    folders = ("cgsaliency", "profiles", "tests")
    return sorted(path for folder in folders for path in (root / folder).rglob("*.yaml"))


def name_of(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def cells_of(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source_of(cell: dict) -> str:
    return "".join(cell["source"])


def located_texts(root: Path) -> list[tuple[str, str, str]]:
    "Return name of the file, location and text of each module, script and settings file, and of each notebook cell."
    texts = [
        (name_of(path, root), "line", path.read_text(encoding="utf-8"))
        for path in [*modules(root), *scripts(root), *settings_files(root)]
    ]
    for path in notebooks(root):
        for index, cell in enumerate(cells_of(path)):
            texts.append((name_of(path, root), f"cell {index}, line", source_of(cell)))
    return texts


def unquoted_texts(root: Path) -> list[tuple[str, str, str]]:
    "Return the texts without the quotations of ALLOWED."
    texts = []
    for name, location, text in located_texts(root):
        for module, quotation, _ in ALLOWED:
            if name in (f"cgsaliency/{module}.py", f"nbs/{module}.ipynb"):
                text = text.replace(quotation, "")
        texts.append((name, location, text))
    return texts


# The checks


def names_exported_twice(root: Path) -> list[str]:
    "Names that `__all__` of two modules lists."
    paths_of = defaultdict(list)
    for path in modules(root):
        for node in tree_of(path).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                for name in sorted(set(ast.literal_eval(node.value))):
                    paths_of[name].append(name_of(path, root))
    return [
        f"{' and '.join(paths)} export '{name}': rename one, or underscore what only its module needs"
        for name, paths in sorted(paths_of.items())
        if len(paths) > 1
    ]


def imported_modules(path: Path, root: Path) -> list[tuple[int, str]]:
    "Line and absolute name of every module that is imported, also inside functions."
    package = path.relative_to(root).parent.parts
    imports = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            imports += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*parents, *filter(None, [node.module])])
            if base in ("", "cgsaliency"):
                imports += [(node.lineno, f"cgsaliency.{alias.name}") for alias in node.names]
            else:
                imports.append((node.lineno, base))
    return imports


def imports_upward(root: Path) -> list[str]:
    "Modules outside the rooms, and imports from a room that the module's room may not know."
    messages = []
    for path in modules(root):
        room, name = path.relative_to(root / "cgsaliency").parts[0], name_of(path, root)
        if room not in ROOMS:
            messages.append(f"{name} is in none of the rooms {', '.join(ROOMS)}")
            continue
        allowed = ONLY.get(room, set(ROOMS[: ROOMS.index(room)])) | {room}
        if name == "cgsaliency/core/explanation.py":  # to_png and to_html import show when they are called
            allowed = allowed | {"show"}
        for line, module in imported_modules(path, root):
            top, *rest = module.split(".")
            if top == "cgsaliency" and rest and rest[0] in ROOMS and rest[0] not in allowed:
                messages.append(
                    f"{name}, line {line}: {room} imports {module}, but may import only from"
                    f" {', '.join(other for other in ROOMS if other in allowed)}"
                )
    return messages


def drawing_in_core(root: Path) -> list[str]:
    "Imports of a drawing library in core."
    return [
        f"{name_of(path, root)}, line {line}: core imports {module}; what draws belongs into show"
        for path in modules(root)
        if path.relative_to(root / "cgsaliency").parts[0] == "core"
        for line, module in imported_modules(path, root)
        if module.split(".")[0] in DRAWING
    ]


def titles(root: Path) -> dict[str, str]:
    "First line of each notebook's first cell; a raw cell (nbdev's front matter) may stand before it."
    first_lines = {}
    for path in notebooks(root):
        first = next((source_of(cell) for cell in cells_of(path) if cell["cell_type"] != "raw"), "")
        first_lines[name_of(path, root)] = first.split("\n")[0]
    return first_lines


def notebooks_without_title(root: Path) -> list[str]:
    "Notebooks whose first cell does not begin with a first-level heading."
    return [
        f"{name}: the first cell begins with {title[:40]!r}; it must begin with '# ' and the title"
        for name, title in titles(root).items()
        if not re.match(r"# \S", title)
    ]


def titles_twice(root: Path) -> list[str]:
    "Titles that two notebooks have."
    names_of = defaultdict(list)
    for name, title in titles(root).items():
        names_of[title.strip().lower()].append(name)
    return [
        f"{' and '.join(names)} have the title {title!r}: the list of the site needs one for each"
        for title, names in sorted(names_of.items())
        if len(names) > 1 and title
    ]


def words_in(text: str) -> set[str]:
    "The words of a text in lower case; identifiers are split at underscores, digits and capitals."
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text)}


def replaced_words(root: Path) -> list[str]:
    "Lines of code, notebook sources and YAML with one of WORDS."
    messages = []
    for name, location, text in unquoted_texts(root):
        for line_number, line in enumerate(text.split("\n"), 1):
            for word in sorted(words_in(line) & WORDS):
                problem = f"'{word}' has a standard word instead: {line.strip()[:80]}"
                messages.append(f"{name}, {location} {line_number}: {problem}")
    return messages


def matches(root: Path, pattern: str, problem: str) -> list[str]:
    "Messages with file, line and text of each match of a pattern, also across line breaks."
    messages = []
    for name, location, text in unquoted_texts(root):
        for match in re.finditer(pattern, text, re.IGNORECASE):
            line_number = text.count("\n", 0, match.start()) + 1
            quoted = " ".join(match.group().split())
            messages.append(f"{name}, {location} {line_number}: {quoted!r} {problem}")
    return messages


def idioms(root: Path) -> list[str]:
    "Places with one of PHRASES."
    return matches(root, rf"\b(?:{PHRASES})\b".replace(" ", r"\s+"), "has a standard term instead")


def british_spellings(root: Path) -> list[str]:
    "Places with a British spelling."
    return matches(root, BRITISH, "is British; the spelling is American")


def unclear_parameters(root: Path) -> list[str]:
    "Parameters and fields of the package with a name of PARAMETERS, and variables with a name of VARIABLES."
    messages = []
    for path in modules(root):
        nodes = list(ast.walk(tree_of(path)))
        fields = [
            node.target for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        ]
        parameters = [node for node in nodes if isinstance(node, ast.arg)]
        variables = [node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
        unclear = [("parameter", node.lineno, node.arg) for node in parameters if node.arg in PARAMETERS]
        unclear += [("field", node.lineno, node.id) for node in fields if node.id in PARAMETERS]
        unclear += [
            ("variable", node.lineno, node.id)
            for node in variables
            if node.id in VARIABLES and not any(node is field for field in fields)
        ]
        for kind, line, name in sorted(unclear, key=lambda entry: entry[1]):
            messages.append(f"{name_of(path, root)}, line {line}: {kind} '{name}' does not say what it is")
    return messages


def unclear_variables_in_scripts(root: Path) -> list[str]:
    "Variables and parameters of tests, tools and benchmarks with a name of VARIABLES."
    messages = []
    for path in scripts(root):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in VARIABLES:
                messages.append(f"{name_of(path, root)}, line {node.lineno}: '{node.id}' does not say what it is")
            elif isinstance(node, ast.arg) and node.arg in VARIABLES:
                messages.append(f"{name_of(path, root)}, line {node.lineno}: '{node.arg}' does not say what it is")
    return messages


def unused_allowances(root: Path) -> list[str]:
    "Entries of ALLOWED whose quotation is not in the module and its notebook."
    texts = defaultdict(str)
    for name, _, text in located_texts(root):
        texts[name] += text + "\n"
    return [
        f"ALLOWED: {name} does not contain {quotation!r}"
        for module, quotation, _ in ALLOWED
        for name in (f"cgsaliency/{module}.py", f"nbs/{module}.ipynb")
        if quotation not in texts[name]
    ]


CHECKS = (
    names_exported_twice,
    imports_upward,
    drawing_in_core,
    notebooks_without_title,
    titles_twice,
    replaced_words,
    idioms,
    british_spellings,
    unclear_parameters,
    unclear_variables_in_scripts,
    unused_allowances,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_project_passes(check):
    messages = check(ROOT)
    assert not messages, "\n".join([f"{len(messages)} found", *messages[:50]])


# Each check detects what it has to


@pytest.fixture
def write(tmp_path):
    "Write a module from its text, or a notebook from the sources of its Markdown cells."

    def write(name: str, *content: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".ipynb":
            cells = [{"cell_type": "markdown", "metadata": {}, "source": [text]} for text in content]
            path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
        else:
            path.write_text("\n".join(content), encoding="utf-8")
        return tmp_path

    return write


def test_names_that_two_modules_export_are_detected(write):
    write("cgsaliency/core/io.py", "__all__ = ['read', 'VERSION']")
    root = write("cgsaliency/data/coco.py", "__all__ = ['load', 'read']")
    assert names_exported_twice(root) == [
        "cgsaliency/core/io.py and cgsaliency/data/coco.py export 'read': rename one, or underscore what only its"
        " module needs"
    ]


@pytest.mark.parametrize(
    "name, code",
    [
        ("core/geometry.py", "from ..data.coco import load_coco"),
        ("core/geometry.py", "def f():\n    from cgsaliency.show.html import render_html"),
        ("data/coco.py", "import cgsaliency.synth.scenes"),
        ("features/backbone.py", "from .. import models"),
        ("features/backbone.py", "from cgsaliency import train"),
        ("toy/color_models.py", "from ..features.backbone import Backbone"),
        ("explain/cgvs.py", "from ..models.base import CaptionerBase"),
        ("evaluate/bootstrap.py", "from ..train.loop import train"),
        ("utils/things.py", "import json"),
    ],
)
def test_imports_upward_are_detected(write, name, code):
    (message,) = imports_upward(write(f"cgsaliency/{name}", code))
    assert message.startswith(f"cgsaliency/{name}")


def test_imports_downward_are_allowed(write):
    write("cgsaliency/core/geometry.py", "import torch", "from .errors import InputError")
    write("cgsaliency/core/explanation.py", "def to_html():\n    from ..show.html import render_html")
    write("cgsaliency/toy/color_models.py", "from ..core.protocols import eval_mode", "from .. import data")
    root = write("cgsaliency/app/cli.py", "from ..models import registry", "from cgsaliency import show, __version__")
    assert imports_upward(root) == []


@pytest.mark.parametrize("code", ["import matplotlib.pyplot as plt", "def f():\n    from seaborn import heatmap"])
def test_drawing_libraries_in_core_are_detected(write, code):
    write("cgsaliency/show/heatmap.py", code)
    assert len(drawing_in_core(write("cgsaliency/core/explanation.py", code))) == 1


def test_notebooks_without_a_title_are_detected(write):
    write("nbs/core/geometry.ipynb", "# Geometry\n\n> Cells and pixels.")
    write("nbs/papers/cgvs/table1.ipynb", "Table 1")
    assert notebooks_without_title(write("nbs/empty.ipynb")) == [
        "nbs/empty.ipynb: the first cell begins with ''; it must begin with '# ' and the title",
        "nbs/papers/cgvs/table1.ipynb: the first cell begins with 'Table 1'; it must begin with '# ' and the title",
    ]


def test_duplicate_titles_are_detected(write):
    write("nbs/papers/aoa/figure1.ipynb", "# Figure 1")
    assert titles_twice(write("nbs/papers/ebr/figure1.ipynb", "# figure 1 \n\nMore.")) == [
        "nbs/papers/aoa/figure1.ipynb and nbs/papers/ebr/figure1.ipynb have the title '# figure 1': the list of the"
        " site needs one for each"
    ]


@pytest.mark.parametrize("word", sorted(WORDS))
@pytest.mark.parametrize("template", ["x = {}", "# {}.", "read_{}_of = 1", "class {}Reader: ...", "x = '{}2.csv'"])
def test_replaced_words_are_detected_in_code_notebooks_and_yaml(write, word, template):
    line = template.format(word.capitalize() if "class" in template else word)
    write("cgsaliency/core/geometry.py", "a = 1", line)
    write("cgsaliency/reproduce/scales/smoke.yaml", line)
    write("tests/core/test_geometry.py", line)
    root = write("nbs/core/geometry.ipynb", "# Geometry", line)
    assert [message.split(": ")[0] for message in replaced_words(root)] == [
        "cgsaliency/core/geometry.py, line 2",
        "tests/core/test_geometry.py, line 1",
        "cgsaliency/reproduce/scales/smoke.yaml, line 1",
        "nbs/core/geometry.ipynb, cell 1, line 1",
    ]


def test_ordinary_words_and_allowed_quotations_are_no_error(write):
    write("cgsaliency/core/geometry.py", "eye = torch.eye(3)  # filming, pictured, looks, athletics")
    write("nbs/synth/scenes.ipynb", "# Scenes", 'COLORS = {"grey": (1, 2, 3)}')
    root = write("cgsaliency/synth/videos.py", 'rng = Random(f"cgsaliency/film/{seed}")')
    assert replaced_words(root) == british_spellings(root) == []


def test_a_quotation_is_allowed_only_where_it_is_listed(write):
    assert replaced_words(write("cgsaliency/synth/scenes.py", 'rng = Random(f"cgsaliency/film/{seed}")'))


def test_idioms_are_detected_across_line_breaks(write):
    root = write("nbs/core/geometry.ipynb", "# Geometry", "The CNN stands\nstill. A class of one's own. He changes.")
    assert [message.split(": ")[1] for message in idioms(root)] == [
        "'stands still' has a standard term instead",
        '"one\'s own" has a standard term instead',
    ]


@pytest.mark.parametrize(
    "word", ["colours", "normalised", "recogniser", "localisation", "artefact", "labelled", "centre", "analyse", "grey"]
)
def test_british_spellings_are_detected(write, word):
    assert len(british_spellings(write("cgsaliency/core/geometry.py", f"# the {word} of x_{word}"))) == 2


def test_american_spellings_are_no_error(write):
    text = "# colors, normalized, raise, noise, precise, exercise, comparison, cancellation, centered, analysis, gray"
    assert british_spellings(write("cgsaliency/core/geometry.py", text)) == []


@pytest.mark.parametrize(
    "code, message",
    [
        ("def f(passes): ...", "parameter 'passes'"),
        ("def f(*, most=1): ...", "parameter 'most'"),
        ("f = lambda kept: kept", "parameter 'kept'"),
        ("class A:\n    chance: float", "field 'chance'"),
        ("for one in (1, 2): ...", "variable 'one'"),
        ("if found := 1: ...", "variable 'found'"),
    ],
)
def test_unclear_parameters_fields_and_variables_are_detected(write, code, message):
    (detected,) = unclear_parameters(write("cgsaliency/core/geometry.py", code))
    assert message in detected


def test_unclear_variables_in_scripts_are_detected(write):
    assert len(unclear_variables_in_scripts(write("tests/core/test_io.py", "own = [one for one in x]"))) == 2


def test_allowances_without_their_quotation_are_detected(write):
    assert len(unused_allowances(write("cgsaliency/core/geometry.py", "a = 1"))) == 2 * len(ALLOWED)
