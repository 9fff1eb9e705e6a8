"""The code of all paper notebooks: no device is named; long captions, empty lists and missing phrases are allowed."""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PAPERS = Path(__file__).resolve().parents[2] / "nbs/papers"
NOTEBOOKS = sorted(path for path in PAPERS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.relative_to(PAPERS)))


@cache
def code_of(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return re.sub(r"^\s*[%!].*", "", "\n".join(sources), flags=re.MULTILINE)


def calls(source: str, *names: str) -> Iterator[ast.Call]:
    "Yield the calls of functions or methods with these names."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if called in names:
                yield node


def device_moves(source: str) -> list[str]:
    "Return calls that move a tensor or a model to a named device, instead of `to_device` and `device_of`."
    moves = [call for call in calls(source, "cpu", "cuda", "mps") if isinstance(call.func, ast.Attribute)]
    for call in calls(source, "to"):
        first = call.args[0] if call.args else None
        if isinstance(first, ast.Constant) or isinstance(first, ast.Name) and "device" in first.id:
            moves.append(call)
    moves += [call for call in calls(source, "device") if ast.unparse(call.func) == "torch.device"]
    return [ast.unparse(call) for call in moves]


@each_notebook
def test_paper_notebooks_name_no_device(path):
    assert device_moves(code_of(path)) == []


def test_named_devices_are_detected():
    for code in (
        "x.cpu()",
        "x[0].cuda()",
        'm.to("cuda")',
        "x.to(device)",
        "x.to(my_device, y)",
        "d = torch.device('cpu')",
    ):
        assert device_moves(code), code
    for code in ("to_device(x, device_of(m))", "x.to(y)", "m.to(default_device())", "x.to(torch.float64)", "cpu()"):
        assert not device_moves(code), code


CAPTION_FUNCTIONS = (  # they reject captions of more than max_words, unless they may truncate
    "encode_words", "cgvs", "spacetime", "leave_one_out", "attention", "area_attention", "area_weights",
    "word_gradient", "integrated_gradients", "batched_word_gradients", "eb_r_words", "eb_r_caption",
    "log_prob_gain", "top_gain_tokens", "context_evidence", "explain",
)  # fmt: skip


def bound_names(source: str) -> set[str]:
    "Return the names of functions, parameters and variables that the code defines."
    nodes = list(ast.walk(ast.parse(source)))
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    parameters = {node.arg for node in nodes if isinstance(node, ast.arg)}
    return functions | parameters | {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def calls_without_truncation(source: str) -> list[str]:
    "Return calls with a caption of the data, `….tokens`, that would reject a long one."
    rejecting = []
    for call in calls(source, *(set(CAPTION_FUNCTIONS) - bound_names(source))):
        has_caption = any(isinstance(argument, ast.Attribute) and argument.attr == "tokens" for argument in call.args)
        keywords = {keyword.arg for keyword in call.keywords}
        if has_caption and not keywords & {"truncate", None} and not ast.unparse(call).endswith(", True)"):
            rejecting.append(ast.unparse(call))
    return rejecting


@each_notebook
def test_captions_of_the_data_may_be_truncated(path):
    assert calls_without_truncation(code_of(path)) == []


def test_calls_without_truncation_are_detected():
    assert calls_without_truncation("spacetime(model, clip, caption.tokens)") and calls_without_truncation(
        "model.encode_words(record.captions[0].tokens)"
    )
    for code in (
        "cgvs(model, clip, caption.tokens, truncate=True)",
        "encode_words(caption.tokens, True)",
        "cgvs(model, clip, caption.tokens, **options)",
        "def explain(sample, tokens): ...\nexplain(sample, caption.tokens)",
    ):
        assert not calls_without_truncation(code), code


def tensors_without_dtype(source: str) -> list[str]:
    "Return calls `torch.tensor([… for …])` without a dtype: of an empty list they would give float32."
    tensor_calls = [call for call in calls(source, "tensor") if call.args and isinstance(call.args[0], ast.ListComp)]
    return [ast.unparse(call) for call in tensor_calls if "dtype" not in {keyword.arg for keyword in call.keywords}]


@pytest.mark.parametrize("name", ("frame_cnn", "action_lstm"))
def test_tensors_of_labels_have_a_dtype(name):
    source = code_of(PAPERS / f"ebr/{name}.ipynb")
    assert "torch.tensor([" in source and tensors_without_dtype(source) == []


def test_tensors_without_dtype_are_detected():
    assert tensors_without_dtype("torch.tensor([f(x) for x in y])")
    assert not tensors_without_dtype("torch.tensor([f(x) for x in y], dtype=torch.long); torch.tensor([1, 2])")


DRAWN_ONLY_FILES = ("toybox.json", "phrases.json")  # written beside the official files by `synth`


def files_without_check(source: str) -> list[str]:
    "Return paths of files that only drawn data have and that the code reads without asking whether they are there."
    checked = {
        ast.unparse(call.func.value) for call in calls(source, "is_file") if isinstance(call.func, ast.Attribute)
    }
    values = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    paths = [value for value in values if isinstance(value, str) and value.endswith(DRAWN_ONLY_FILES)]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in checked:
            assigned = {part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant)}
            paths = [path for path in paths if path not in assigned]
    return paths


@pytest.mark.parametrize(
    "path",
    [path for path in NOTEBOOKS if not path.stem.startswith("synth_")],
    ids=lambda path: str(path.relative_to(PAPERS)),
)
def test_files_that_only_drawn_data_have_are_not_needed(path):
    assert files_without_check(code_of(path)) == []


def test_needed_files_are_detected():
    read = "samples = add_phrases(test.samples, {})"
    assert files_without_check(read.format('run.data / "msrvtt/phrases.json"')) == ["msrvtt/phrases.json"]
    path = 'phrases_file = run.data / "msrvtt/phrases.json"\n'
    assert files_without_check(path + read.format("phrases_file")) == ["msrvtt/phrases.json"]
    assert not files_without_check(path + "has_phrases = phrases_file.is_file()\n" + read.format("phrases_file"))
    assert "phrases.json" in code_of(PAPERS / "cgvs/figure5.ipynb")
