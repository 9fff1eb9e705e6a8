"""Drawn films: what is written comes back through the official loaders, and the seed alone decides it."""
import hashlib, json
from pathlib import Path

import pytest

from cgsaliency.core.errors import BadInput
from cgsaliency.core.records import Record
from cgsaliency.data.films import imagine_film
from cgsaliency.data.frames import evenly, read_frames
from cgsaliency.data.msrvtt import load_msrvtt
from cgsaliency.data.msvd import load_msvd
from cgsaliency.data.scenes import draw
from cgsaliency.data.toyfilms import make_msrvtt, make_msvd, with_phrases

SETS = {"msvd": (make_msvd, load_msvd, 1), "msrvtt": (make_msrvtt, load_msrvtt, 2)}
COUNTS = {"train": 6, "val": 2, "test": 3}


@pytest.fixture(scope="module", params=SETS)
def name(request) -> str: return request.param


@pytest.fixture(scope="module")
def root(name, tmp_path_factory) -> Path: return SETS[name][0](tmp_path_factory.mktemp("films") / name, **COUNTS, seed=3)


def loaded(name: str, root: Path, part: str) -> tuple[Record, ...]:
    return with_phrases(SETS[name][1](root, part).records, root / "phrases.json")


def bytes_of(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.rglob("*")) if path.is_file()}


def test_official_loaders_read_every_clip_and_its_phrases(name, root):
    _, _, acts = SETS[name]
    for part, count in COUNTS.items():
        records = loaded(name, root, part)
        assert len(records) == count
        for record in records:
            film = imagine_film(3, int("".join(letter for letter in record.id if letter.isdigit())), acts)
            clip = read_frames(record.path)
            assert clip.total == len(film.frames) and clip.indices == tuple(evenly(clip.total)) and abs(clip.times[-1] - (clip.total - 1) / film.rate) < .01
            assert (record.width, record.height) == (film.width, film.height) == clip.frames[0].size and len(record.sentences) == 8
            spoken = {film.things[int(phrase.chain) - 1] for _, phrase in record.phrase_mentions}
            assert {act.actor for act in film.acts} <= spoken
            for sentence, phrase in record.phrase_mentions:
                thing = film.things[int(phrase.chain) - 1]
                assert " ".join(sentence.words_of(phrase)) in thing.words
                assert (phrase.boxes, phrase.frames, phrase.categories, phrase.scene) == (thing.boxes, thing.frames, thing.category, thing.scene)


def test_parts_share_no_clip(name, root):
    ids = [record.id for part in COUNTS for record in loaded(name, root, part)]
    assert len(set(ids)) == len(ids) == sum(COUNTS.values())


def test_the_same_bytes_again_and_others_with_another_seed(name, root, tmp_path):
    make, _, _ = SETS[name]
    assert bytes_of(make(tmp_path / "again", **COUNTS, seed=3)) == bytes_of(root)
    other = bytes_of(make(tmp_path / "other", **COUNTS, seed=4))
    assert not set(other.values()) & set(bytes_of(root).values())


def test_more_films_leave_the_first_as_they_are(name, root, tmp_path):
    more = bytes_of(SETS[name][0](tmp_path / "more", **{**COUNTS, "train": 8}, seed=3))
    drawn = {path: digest for path, digest in bytes_of(root).items() if path.endswith((".avi", ".mp4"))}
    assert len(drawn) == 11 and all(more[path] == digest for path, digest in drawn.items())


def test_the_drawing_does_not_change_between_releases():
    "A change of what is drawn has to raise toyfilms.VERSION, and these digests with it. Pixels before any encoder."
    found = {acts: hashlib.sha256(b"".join(draw(scene).tobytes() for index in range(6) for scene in imagine_film(0, index, acts).frames)).hexdigest()[:16] for acts in (1, 2)}
    assert found == {1: "b52d8772812c6e0b", 2: "f2765ceab5b037c9"}


def test_the_annotations_do_not_change_between_releases(name, root):
    "As for the drawing. Text only: a video library may encode otherwise."
    known = sorted((path, digest) for path, digest in bytes_of(root).items() if path.endswith((".txt", ".json")))
    assert hashlib.sha256(repr(known).encode()).hexdigest()[:16] == {"msvd": "967107494db89afd", "msrvtt": "7065c066b099a62f"}[name]


def test_phrases_of_another_toybox_are_refused(name, root, tmp_path):
    make, load, _ = SETS[name]
    records = load(root, "test").records
    other = make(tmp_path / "other", 1, 1, 4, seed=5)
    with pytest.raises(BadInput, match=f"{records[0].id}, sentence 0: says"): with_phrases(records, other / "phrases.json")
    with pytest.raises(BadInput, match="has no phrases of clip"): with_phrases(load(root, "train").records[1:], other / "phrases.json")


def test_a_broken_file_of_phrases_is_refused(name, root, tmp_path):
    records, text, broken = SETS[name][1](root, "test").records, (root / "phrases.json").read_text(), tmp_path / "phrases.json"
    with pytest.raises(BadInput, match="is not there"): with_phrases(records, broken)
    for content, says in [(text[:-400], "is not whole JSON"), (text.replace('"boxes"', '"box"'), "is not as the toybox writes it")]:
        broken.write_text(content)
        with pytest.raises(BadInput, match=says): with_phrases(records, broken)
    for spoil, says in [(lambda clip: clip["sentences"].pop(), "has 7 sentences; the clip has 8"), (lambda clip: clip["chains"]["1"]["frames"].pop(), "frames and .* boxes in chain 1")]:
        known = json.loads(text)
        spoil(known[records[0].id])
        broken.write_text(json.dumps(known))
        with pytest.raises(BadInput, match=says): with_phrases(records, broken)


def test_nothing_is_overwritten_and_nothing_is_left_half_made(name, root, tmp_path, monkeypatch):
    make, _, _ = SETS[name]
    before = bytes_of(root)
    with pytest.raises(BadInput, match="toybox.json"): make(root, 6, 2, 3, seed=4)
    (tmp_path / "theirs").mkdir()
    with pytest.raises(BadInput, match="toybox.json"): make(tmp_path / "theirs", 1, 1, 1)
    monkeypatch.setattr("cgsaliency.data.toyfilms.narrate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError): make(tmp_path / "half", 1, 1, 1)
    assert bytes_of(root) == before and [path.name for path in tmp_path.iterdir()] == ["theirs"]
