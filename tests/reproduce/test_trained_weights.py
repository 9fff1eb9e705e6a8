"""Weights that travel with the project: which are taken, what is said otherwise, and what the folder holds."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from cgsaliency.core.io import read_json
from cgsaliency.core.runtime import set_weights_precision
from cgsaliency.features.weights import read_weights, write_weights
from cgsaliency.reproduce.context import NotebookContext
from cgsaliency.reproduce.scale_config import SCALES, load_scale
from cgsaliency.reproduce.trained_weights import (
    PUT_VARIABLE,
    TRAININGS,
    WEIGHTS_VARIABLE,
    ShippedWeights,
    shipped_cards,
    unlisted_files,
    write_artifact_card,
)
from tests.reproduce.test_snakefile import ROOT, dry_run

SCALE = "smoke"
MAX_TOTAL, MAX_FILE = 60e6, 3e6
LARGE_FILES: set[str] = set()  # files of weights/ that may have more than MAX_FILE bytes


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    "Return a folder with artifacts and weights of all sections that train at scale smoke; each has one small file."
    folder = tmp_path_factory.mktemp("trained")
    weights = ShippedWeights(SCALE, folder, folder / "weights")
    for section in TRAININGS:
        if not weights.trains(section) or not TRAININGS[section].travels:
            continue
        path = folder / f"artifacts/{section}/best.safetensors"
        path.parent.mkdir(parents=True)
        torch.manual_seed(len(section))
        write_weights(path, nn.Linear(3, 2).state_dict())
        write_artifact_card(weights, section, folder / "artifacts", [section], {"hours": 0.0})
        weights.put(section, folder / "artifacts")
    return folder


@pytest.fixture
def shipped(trained, tmp_path) -> Path:
    "Return a copy of the weights, beside a copy of the artifacts."
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "weights"


def planned(tmp_path: Path, weights: Path | str) -> dict[str, str]:
    "Return the input files of the rules that a run would execute, by name of the rule."
    completed = dry_run(tmp_path, scale=SCALE, weights=str(weights))
    assert completed.returncode == 0, completed.stderr
    return dict(re.findall(r"rule (\w+):\n(?:    input: (.*)\n)?", completed.stdout + completed.stderr))


@pytest.mark.slow
def test_training_data_are_drawn_only_for_what_is_trained(shipped, tmp_path):
    with_weights, without = (planned(tmp_path, weights).keys() for weights in (shipped, "none"))
    drawing = {"draw_flickr30k", "draw_coco", "draw_msvd_msrvtt", "draw_ucf101_thumos14"}
    assert drawing <= without
    # the error analysis trains variants that do not travel
    assert with_weights & drawing == {"draw_flickr30k"} and without - with_weights == drawing - {"draw_flickr30k"}


def give_other_settings(path: Path) -> None:
    "Let the card beside the weights have another fingerprint, of other settings."
    card = read_json(path.with_name("card.json"))
    settings = {**card["settings"], "seed": 7}
    path.with_name("card.json").write_text(json.dumps({**card, "settings": settings, "fingerprint": "0" * 16}))


# how weights of a section do not fit, and what is said
UNFIT = {
    "ebr/frame_cnn": (lambda path: path.unlink(), r"best\.safetensors is missing"),
    "cgvs/captioners_video": (lambda path: path.write_bytes(path.read_bytes()[:-9]), r"has \d+ bytes instead of \d+"),
    "aoa/ensemble": (give_other_settings, r"card\.json has settings\.seed = 7 instead of 0"),
}


@pytest.mark.slow
def test_the_snakefile_trains_what_does_not_fit(shipped, tmp_path):
    for section, (change, _) in UNFIT.items():
        change(shipped / SCALE / section / "best.safetensors")
    inputs = planned(tmp_path, shipped)
    sections = [section for section in TRAININGS if section.replace("/", "_") in inputs]
    trained = {section for section in sections if "train_data/" in inputs[section.replace("/", "_")]}
    taken = {section for section in sections if f"{section}/card.json" in inputs[section.replace("/", "_")]}
    assert trained == {*UNFIT, "ebr/action_lstm", "cgvs/error_analysis"}, "with what builds on it, or does not travel"
    assert taken == set(sections) - trained


@pytest.mark.parametrize("section", UNFIT)
def test_a_notebook_says_in_one_sentence_why_it_trains(section, shipped, tmp_path, monkeypatch, capsys):
    change, message = UNFIT[section]
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(shipped))
    path, states = tmp_path / f"run/{section}/best.safetensors", []

    def train_or_take() -> str:
        run = NotebookContext(section, {}, tmp_path, tmp_path / "run", tmp_path / "reports", SCALE)
        run.train_or_take(lambda: states.append(path.exists()), [section])
        return capsys.readouterr().out

    assert train_or_take().startswith("The weights are from") and path.is_file() and states == []
    change(shipped / SCALE / section / "best.safetensors")
    output = train_or_take()
    assert re.search(message, output) and output.endswith(f": {section} is trained anew.\n") and output.count("\n") == 1
    assert states == [False], "it is trained once, without the files that were taken before"


def refusals(weights: Path, data: Path) -> dict[str, str]:
    "Return why sections are trained anew, by section."
    shipped = ShippedWeights(SCALE, data, weights)
    sections = [section for section in TRAININGS if shipped.trains(section) and TRAININGS[section].travels]
    return {section: reason for section in sections if (reason := shipped.refusal(section))}


def test_fitting_weights_are_taken(shipped, tmp_path):
    assert refusals(shipped, tmp_path) == {}
    assert ShippedWeights(SCALE, tmp_path, None).refusal("cgvs/backbone") == "no weights are taken"


BROKEN = {
    "missing": (lambda path: path.unlink(), r"best.safetensors is missing"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-9]), r"has \d+ bytes instead of \d+"),
    "changed": (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\0"), r"another file than its card states"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_trains_its_section_and_those_that_build_on_it(name, shipped, tmp_path):
    change, message = BROKEN[name]
    change(shipped / SCALE / "aoa/train_terms/best.safetensors")
    reasons = refusals(shipped, tmp_path)
    dependent = {"aoa/parameterizations", "aoa/train_region_types", "aoa/finetuned"}
    assert reasons.keys() == {"aoa/train_terms", *dependent}
    assert re.search(message, reasons["aoa/train_terms"])
    assert reasons["aoa/train_region_types"].endswith("builds on aoa/train_terms, which is trained anew")


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"fingerprint": "0"}'])
def test_a_broken_card_is_reported(content, shipped, tmp_path):
    path = shipped / SCALE / "ebr/captioner/card.json"
    path.write_text(content)
    reasons = refusals(shipped, tmp_path)
    assert reasons.keys() == {"ebr/captioner"} and str(path) in reasons["ebr/captioner"]


CHANGES = {
    "a setting of one section": ("cgvs/captioners_video", "num_frames", {"cgvs/captioners_video"}),
    "a nested setting": ("ebr/frame_cnn", "model_kwargs", {"ebr/frame_cnn", "ebr/action_lstm"}),
    "the data": ("synth_ucf101_thumos14", "ucf101", {"ebr/frame_cnn", "ebr/action_lstm"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_fingerprint_changes_with_settings_and_data(name, shipped, tmp_path, monkeypatch):
    section, setting, expected = CHANGES[name]
    sections = load_scale(SCALE)
    value = sections[section][setting]
    sections[section][setting] = {**value, "clips": 3} if isinstance(value, dict) else "another"
    monkeypatch.setattr("cgsaliency.reproduce.trained_weights.load_scale", lambda scale: sections)
    assert refusals(shipped, tmp_path).keys() == expected


def test_machine_settings_and_test_sizes_do_not_count(shipped, tmp_path, monkeypatch):
    sections = load_scale(SCALE)
    sections["all"] |= {"threads": 7, "note": "another"}
    sections["synth_flickr30k"]["test"] += 5
    monkeypatch.setattr("cgsaliency.reproduce.trained_weights.load_scale", lambda scale: sections)
    assert refusals(shipped, tmp_path) == {}


def test_other_weights_of_the_same_settings_train_what_builds_on_them(shipped, tmp_path):
    path = tmp_path / "artifacts/cgvs/backbone/best.safetensors"
    write_weights(path, nn.Linear(3, 2).state_dict())
    weights = ShippedWeights(SCALE, tmp_path, shipped)
    write_artifact_card(weights, "cgvs/backbone", tmp_path / "artifacts", ["cgvs/backbone"], {})
    weights.put("cgvs/backbone", tmp_path / "artifacts")
    reasons = refusals(shipped, tmp_path)
    assert "cgvs/backbone" not in reasons and "cgvs/captioner" in reasons
    assert "other weights of cgvs/backbone" in reasons["cgvs/captioner"]


def test_half_precision_is_stable(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with torch.no_grad():
        network[0].weight[0] = 1e6  # beyond the range
    set_weights_precision("float16")
    try:
        write_weights(tmp_path / "first.safetensors", network.state_dict())
        write_weights(tmp_path / "second.safetensors", read_weights(tmp_path / "first.safetensors"))
    finally:
        set_weights_precision("float32")
    assert (tmp_path / "first.safetensors").read_bytes() == (tmp_path / "second.safetensors").read_bytes()
    with safe_open(tmp_path / "first.safetensors", "pt") as file:
        dtypes = {name: file.get_tensor(name).dtype for name in file.keys()}
    assert dtypes["0.weight"] == dtypes["1.running_var"] == torch.float32 and dtypes["0.bias"] == torch.float16


@pytest.mark.slow
def test_a_run_that_takes_weights_equals_the_one_that_trained_them(tmp_path, monkeypatch):
    "The captioner of cgvs: the same files, and the same outputs but for the sentence that says where they are from."
    from cgsaliency.reproduce.execute import execute_section

    sections = ("synth_flickr30k", "cgvs/backbone", "cgvs/captioner")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "weights"))
    outputs = []
    for run in ("trained", "taken"):
        if run == "trained":
            monkeypatch.setenv(PUT_VARIABLE, str(tmp_path / "weights"))
        else:
            monkeypatch.delenv(PUT_VARIABLE)
        folders = [str(tmp_path / run / name) for name in ("data", "artifacts", "reports")]
        for section in sections:
            execute_section(section, SCALE, *folders)
        cells = json.loads((tmp_path / run / "reports/cgvs/captioner.ipynb").read_text())["cells"]
        outputs.append([json.dumps(cell.get("outputs", [])) for cell in cells])
    for path in (tmp_path / "weights/smoke").rglob("*"):
        if path.is_file() and not path.name.startswith("card"):
            name = path.relative_to(tmp_path / "weights/smoke")
            contents = {(tmp_path / run / "artifacts" / name).read_bytes() for run in ("trained", "taken")}
            assert contents == {path.read_bytes()}, name
    differences = [(first, second) for first, second in zip(*outputs, strict=True) if first != second]
    assert len(differences) == 1
    assert "is trained anew" in differences[0][0] and "The weights are from" in differences[0][1]
    assert not (tmp_path / "taken/artifacts/train_data").exists()


def test_the_folder_holds_only_listed_files_of_limited_size():
    root = ROOT / "weights"
    cards = shipped_cards(root) if root.is_dir() else {}
    sizes = {}
    for path, card in cards.items():
        assert path == root / card["scale"] / card["section"] / "card.json"
        assert {"fingerprint", "settings", "data", "trained", "curves", "weak_points", "files"} <= card.keys()
        sizes |= {f"{card['scale']}/{name}": entry["bytes"] for name, entry in card["files"].items()}
    assert not root.is_dir() or unlisted_files(root) == []
    assert sum(sizes.values()) <= MAX_TOTAL
    assert {name for name, size in sizes.items() if size > MAX_FILE} <= LARGE_FILES


@pytest.mark.parametrize("scale", SCALES)
def test_weights_of_drawn_scales_fit(scale):
    "A change of a setting without new weights would train again for everybody."
    if not (ROOT / "weights" / scale).is_dir() or "synth_flickr30k" not in load_scale(scale):
        pytest.skip("no weights of drawn data")
    shipped = ShippedWeights(scale, None, ROOT / "weights")
    cards = {read_json(path)["section"] for path in (ROOT / "weights" / scale).rglob("card.json")}
    assert {section: shipped.refusal(section) for section in cards} == dict.fromkeys(cards)
