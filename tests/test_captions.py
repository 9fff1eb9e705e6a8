"""Caption metrics against coco-caption's own evaluation of the same texts."""
import pycocoevalcap.eval as official
import pytest

from cgsaliency.core.records import PARTS
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.evaluate.captions import METRICS, _java, caption_scores


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
