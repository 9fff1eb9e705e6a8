"""The newcomers' notebook and the command line, on a folder as `make reproduce` leaves it."""
import json, os, subprocess, sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from cgsaliency.reproduce.command import main

ROOT = Path(__file__).resolve().parent.parent


def test_the_notebook_for_newcomers_runs(tiny_run, monkeypatch):
    monkeypatch.setenv("CGSALIENCY_ARTIFACTS", str(tiny_run))
    notebook = nbformat.read(ROOT / "nbs/start_here.ipynb", 4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()


def called(capsys, *words):
    capsys.readouterr()
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err.strip()


@pytest.fixture
def photo(tiny_run, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(next((tiny_run / "data/flickr30k/flickr30k-images").glob("*.jpg")).read_bytes())
    return path


def test_explain_caption_evaluate_and_models(tiny_run, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = ("--artifacts", tiny_run)
    code, out, err = called(capsys, "explain", photo, *run)
    assert code == 0 and "the model's own words" in out and (tmp_path / "photo.s2vt.cgvs.png").stat().st_size > 5000 and not err
    sentence = json.loads(called(capsys, "explain", photo, *run, "--json", "--out", "a.json")[1])["sentence"]
    code, out, _ = called(capsys, "explain", photo, *run, "--sentence", " ".join(sentence[:2]), "--phrase", sentence[0], "--out", "a.png", "--out", "a.html", "--out", "a.mp4", "--out", "a.safetensors", "--json")
    found = json.loads(out)
    assert code == 0 and found["files"] == ["a.png", "a.html", "a.mp4", "a.safetensors"] and all(Path(name).stat().st_size > 300 for name in found["files"]) and found["phrase"]["word"] == sentence[0]
    film = next((tiny_run / "data/msrvtt").rglob("*.mp4"))
    for model in ("s2vt-films", "soft-attention-films", "mean-pool-films"):
        code, out, err = called(capsys, "explain", film, *run, "--model", model, "--out", f"{model}.mp4", "--out", f"{model}.png")
        assert code == 0, err
    code, out, _ = called(capsys, "caption", photo, photo, *run, "--json")
    assert code == 0 and len(json.loads(out)) == 2
    code, out, _ = called(capsys, "evaluate", *run, "--limit", 2, "--model", "mean-pool", "--method", "ceb-r", "--json", "--out", "rows.csv")
    assert code == 0 and {line["method"] for line in json.loads(out)} == {"ceb-r", "centre of the picture", "chance"} and Path("rows.csv").is_file()
    code, out, _ = called(capsys, "models", *run)
    assert code == 0 and "ceb-r, eb-r" in out and "left-out" in out


@pytest.mark.parametrize("words, says", [
    (["none.jpg"], "none.jpg: "), (["photo.jpg", "--sentence", "a zebrafinch stands"], "does not know 'zebrafinch'"), (["photo.jpg", "--sentence", "zebrafinch"], "none of its words"),
    (["photo.jpg", "--method", "attention"], "method 'attention': asks for `attention`, which s2vt does not have"), (["photo.jpg", "--method", "shap"], "there is none of this name"), (["photo.jpg", "--model", "s3vt"], "there is none of this name"),
    (["photo.jpg", "--model", "s2vt-films", "--artifacts", "nowhere"], "is not in nowhere"), (["photo.jpg", "--out", "a.gif"], "ends in '.gif'"), (["photo.jpg", "--out", "folder.png"], "is a folder"), (["photo.jpg", "--model", "s2vt-films"], "is a picture; model 's2vt-films' reads films"), (["photo.jpg", "--phrase", "zebrafinch"], "is not in the sentence"), (["broken.jpg"], "broken.jpg")])
def test_what_cannot_be_used_is_said_in_one_sentence(tiny_run, photo, tmp_path, capsys, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    Path("broken.jpg").write_bytes(photo.read_bytes()[:500])
    Path("folder.png").mkdir()
    before = sorted(Path().iterdir())
    code, out, err = called(capsys, "explain", *([] if "--artifacts" in words else ["--artifacts", tiny_run]), *words)
    assert code == 2 and says in err and len(err.splitlines()) == 1 and not out and sorted(Path().iterdir()) == before


def test_the_shell_gives_the_exit_code_and_the_project_knows_its_place(tmp_path):
    done = subprocess.run([sys.executable, "-c", "import sys; from cgsaliency.reproduce.command import main; sys.exit(main())", "reproduce"], cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2 and "lies in no copy of the project" in done.stderr
    done = subprocess.run([sys.executable, "-c", "import sys; from cgsaliency.reproduce.command import main; sys.exit(main())", "data"], cwd=ROOT / "nbs", capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and "flickr30k_entities" in done.stdout and "MSR-VTT" in done.stdout
    for words, says in ((["data", "imagenet"], "Choose one of coco"), (["data", "coco"], "no folder is given"), (["reproduce", "ebr/table9"], "there is none of this name")):
        done = subprocess.run([sys.executable, "-c", "import sys; from cgsaliency.reproduce.command import main; sys.exit(main())", *words], cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert done.returncode == 2 and says in done.stderr, done.stderr


def test_a_picture_stands_as_its_camera_says_and_what_stands_there_is_kept(tiny_run, photo, tmp_path, capsys, monkeypatch):
    from PIL import Image

    from cgsaliency.models.ready import frames_for

    monkeypatch.chdir(tmp_path)
    with Image.open(photo) as picture:
        turned = picture.getexif()
        turned[0x0112] = 6
        picture.save("turned.jpg", exif=turned)
        size = picture.size
    assert frames_for(None, Path("turned.jpg"))[0][0].size == size[::-1] and frames_for(None, photo)[0][0].size == size
    Path("full.png").mkdir()
    Path("full.png/kept.txt").write_text("mine")
    assert called(capsys, "explain", photo, "--artifacts", tiny_run, "--out", "full.png")[0] == 2 and Path("full.png/kept.txt").read_text() == "mine"
    for words in (("--limit", "0"), ("--limit", "-3"), ("--out", "none/rows.csv"), ("--model", "s2vt-films")): assert called(capsys, "evaluate", "--artifacts", tiny_run, *words)[0] == 2, words
    code, out, _ = called(capsys, "explain", photo, "--artifacts", tiny_run, "--sentence", "a zebrafinch", "--unknown", "keep", "--json")
    assert code == 0 and json.loads(out)["words"][1]["x"] is None
