"""What holds for the code of all paper notebooks: they name no device, and bear sentences and parts of any length."""

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import Iterator

import pytest

PAPERS = Path(__file__).resolve().parent.parent / "nbs/papers"
NOTEBOOKS = sorted(path for path in PAPERS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.relative_to(PAPERS)))


@cache
def code_of(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return re.sub(r"^\s*[%!].*", "", "\n".join(sources), flags=re.MULTILINE)


def calls(source: str, *names: str) -> Iterator[ast.Call]:
    "The calls of functions or methods with these names."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if called in names:
                yield node


def devices_named(source: str) -> list[str]:
    "What moves a tensor or a model to a device that the code names, instead of `to_device` and `device_of`."
    moves = [call for call in calls(source, "cpu", "cuda", "mps") if isinstance(call.func, ast.Attribute)]
    for call in calls(source, "to"):
        first = call.args[0] if call.args else None
        if isinstance(first, ast.Constant) or isinstance(first, ast.Name) and "device" in first.id:
            moves.append(call)
    moves += [call for call in calls(source, "device") if ast.unparse(call.func) == "torch.device"]
    return [ast.unparse(call) for call in moves]


@each_notebook
def test_no_paper_notebook_names_a_device(path):
    assert devices_named(code_of(path)) == []


def test_devices_that_are_named_are_found():
    for code in ("x.cpu()", "x[0].cuda()", 'm.to("cuda")', "x.to(device)", "x.to(my_device, y)", "d = torch.device('cpu')"):
        assert devices_named(code), code
    for code in ("to_device(x, device_of(m))", "x.to(y)", "m.to(best_device())", "x.to(torch.float64)", "cpu()"):
        assert not devices_named(code), code


EXPLAINERS = (  # what refuses a sentence of more than max_words, unless it may cut it
    "encode_words", "cgvs", "spacetime", "left_out", "attention", "area_attention", "area_weights", "word_gradient",
    "integrated_gradients", "seen_in_passes", "eb_r_words", "eb_r_caption", "owed_to", "evidence_at_mean", "explained_by",
)  # fmt: skip


def refusing(source: str) -> list[str]:
    "Calls about a sentence of the data, `….tokens`, that would refuse a long one."
    found = []
    for call in calls(source, *EXPLAINERS):
        of_data = any(isinstance(one, ast.Attribute) and one.attr == "tokens" for one in call.args)
        named = {word.arg for word in call.keywords}
        if of_data and not named & {"cut", None} and not ast.unparse(call).endswith(", True)"):
            found.append(ast.unparse(call))
    return found


@each_notebook
def test_sentences_of_the_data_may_be_longer_than_a_captioner_allows(path):
    assert refusing(code_of(path)) == []


def test_a_call_that_refuses_long_sentences_is_found():
    assert refusing("spacetime(model, clip, one.tokens)") and refusing("model.encode_words(record.sentences[0].tokens)")
    assert not refusing("cgvs(m, d, one.tokens, cut=True); encode_words(one.tokens, True); cgvs(m, d, one.tokens, **how)")


def labels_without_type(source: str) -> list[str]:
    "Tensors of a list that may be empty, then of float32: `torch.tensor([… for …])` without a dtype."
    made = [call for call in calls(source, "tensor") if call.args and isinstance(call.args[0], ast.ListComp)]
    return [ast.unparse(call) for call in made if "dtype" not in {word.arg for word in call.keywords}]


@pytest.mark.parametrize("name", ("frames", "recogniser"))
def test_labels_are_integers_also_where_there_are_none(name):
    source = code_of(PAPERS / f"ebr/{name}.ipynb")
    assert "torch.tensor([" in source and labels_without_type(source) == []


def test_labels_without_a_type_are_found():
    assert labels_without_type("torch.tensor([f(x) for x in y])")
    assert not labels_without_type("torch.tensor([f(x) for x in y], dtype=torch.long); torch.tensor([1, 2])")
