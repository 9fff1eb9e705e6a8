"""Synthetic videos in the layouts of MSVD and MSR-VTT: the official loaders read them, and the seed decides them."""

import hashlib
import json
from pathlib import Path

import pytest

from assertions import file_digests
from cgsaliency.core.errors import InputError
from cgsaliency.core.records import Sample
from cgsaliency.data.media import read_frames, uniform_indices
from cgsaliency.data.msrvtt import load_msrvtt
from cgsaliency.data.msvd import load_msvd
from cgsaliency.synth.scenes import render
from cgsaliency.synth.videos import sample_video
from cgsaliency.synth.write_msvd_msrvtt import add_phrases, write_msrvtt, write_msvd

WRITERS = {"msvd": (write_msvd, load_msvd, 1), "msrvtt": (write_msrvtt, load_msrvtt, 2)}
COUNTS = {"train": 6, "val": 2, "test": 3}


@pytest.fixture(scope="module", params=WRITERS)
def dataset_name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def dataset_root(dataset_name, tmp_path_factory) -> Path:
    return WRITERS[dataset_name][0](tmp_path_factory.mktemp("videos") / dataset_name, **COUNTS, seed=3)


def load_with_phrases(dataset_name: str, dataset_root: Path, split: str) -> tuple[Sample, ...]:
    return add_phrases(WRITERS[dataset_name][1](dataset_root, split).samples, dataset_root / "phrases.json")


def test_official_loaders_read_every_clip_and_its_phrases(dataset_name, dataset_root):
    _, _, num_events = WRITERS[dataset_name]
    for split, count in COUNTS.items():
        samples = load_with_phrases(dataset_name, dataset_root, split)
        assert len(samples) == count
        for sample in samples:
            video = sample_video(3, int("".join(letter for letter in sample.id if letter.isdigit())), num_events)
            clip = read_frames(sample.path)
            assert (
                clip.total_frames == len(video.frames)
                and clip.indices == tuple(uniform_indices(clip.total_frames))
                and abs(clip.times[-1] - (clip.total_frames - 1) / video.fps) < 0.01
            )
            assert (sample.width, sample.height) == (video.width, video.height) == clip.frames[0].size and len(
                sample.captions
            ) == 8
            mentioned = {video.objects[int(phrase.entity_id) - 1] for _, phrase in sample.phrase_mentions}
            assert {event.actor for event in video.events} <= mentioned
            for caption, phrase in sample.phrase_mentions:
                tracked_object = video.objects[int(phrase.entity_id) - 1]
                assert " ".join(caption.phrase_tokens(phrase)) in tracked_object.words
                assert (phrase.boxes, phrase.frames, phrase.categories, phrase.scene) == (
                    tracked_object.boxes,
                    tracked_object.frames,
                    tracked_object.category,
                    tracked_object.scene,
                )


def test_splits_share_no_clip(dataset_name, dataset_root):
    ids = [sample.id for split in COUNTS for sample in load_with_phrases(dataset_name, dataset_root, split)]
    assert len(set(ids)) == len(ids) == sum(COUNTS.values())


def test_the_seed_decides_the_files(dataset_name, dataset_root, tmp_path):
    make, _, _ = WRITERS[dataset_name]
    assert file_digests(make(tmp_path / "again", **COUNTS, seed=3)) == file_digests(dataset_root)
    other = file_digests(make(tmp_path / "other", **COUNTS, seed=4))
    assert not set(other.values()) & set(file_digests(dataset_root).values())


def test_more_videos_do_not_change_the_others(dataset_name, dataset_root, tmp_path):
    more_digests = file_digests(WRITERS[dataset_name][0](tmp_path / "more", **{**COUNTS, "train": 8}, seed=3))
    video_digests = {
        path: digest for path, digest in file_digests(dataset_root).items() if path.endswith((".avi", ".mp4"))
    }
    assert len(video_digests) == 11 and all(more_digests[path] == digest for path, digest in video_digests.items())


def test_pixels_do_not_change_between_releases():
    "A change of what is drawn must raise VERSION of write_msvd_msrvtt, and change these digests of raw pixels."
    digests = {
        num_events: (
            hashlib.sha256(
                b"".join(
                    render(scene).tobytes() for index in range(6) for scene in sample_video(0, index, num_events).frames
                )
            ).hexdigest()[:16]
        )
        for num_events in (1, 2)
    }
    assert digests == {1: "7cc53593123ab222", 2: "a42faa8deb0f5c21"}


def test_annotations_do_not_change_between_releases(dataset_name, dataset_root):
    "The same for annotations. Texts only: video libraries differ."
    text_digests = sorted(
        (path, digest) for path, digest in file_digests(dataset_root).items() if path.endswith((".txt", ".json"))
    )
    assert (
        hashlib.sha256(repr(text_digests).encode()).hexdigest()[:16]
        == {"msvd": "0cf063d0a5ac9b78", "msrvtt": "122638ec8421e3ba"}[dataset_name]
    )


def test_phrases_of_other_captions_are_rejected(dataset_name, dataset_root, tmp_path):
    make, load, _ = WRITERS[dataset_name]
    samples = load(dataset_root, "test").samples
    other = make(tmp_path / "other", 1, 1, 4, seed=5)
    with pytest.raises(InputError, match=f"{samples[0].id}, sentence 0: is"):
        add_phrases(samples, other / "phrases.json")
    with pytest.raises(InputError, match="has no phrases of clip"):
        add_phrases(load(dataset_root, "train").samples[1:], other / "phrases.json")


def test_broken_phrase_files_are_reported(dataset_name, dataset_root, tmp_path):
    samples, text, broken = (
        WRITERS[dataset_name][1](dataset_root, "test").samples,
        (dataset_root / "phrases.json").read_text(),
        tmp_path / "phrases.json",
    )
    with pytest.raises(InputError, match="is not there"):
        add_phrases(samples, broken)
    for content, message in [
        (text[:-400], "is not valid JSON"),
        (text.replace('"boxes"', '"box"'), "has an invalid annotation"),
    ]:
        broken.write_text(content)
        with pytest.raises(InputError, match=message):
            add_phrases(samples, broken)
    for damage, message in [
        (lambda clip: clip["sentences"].pop(), "has 7 sentences; the clip has 8"),
        (lambda clip: clip["chains"]["1"]["frames"].pop(), "frames and .* boxes in chain 1"),
    ]:
        phrases = json.loads(text)
        damage(phrases[samples[0].id])
        broken.write_text(json.dumps(phrases))
        with pytest.raises(InputError, match=message):
            add_phrases(samples, broken)


def test_existing_files_are_not_overwritten_and_failed_writing_leaves_none(
    dataset_name, dataset_root, tmp_path, monkeypatch
):
    make, _, _ = WRITERS[dataset_name]
    before = file_digests(dataset_root)
    with pytest.raises(InputError, match="toybox.json"):
        make(dataset_root, 6, 2, 3, seed=4)
    (tmp_path / "theirs").mkdir()
    with pytest.raises(InputError, match="toybox.json"):
        make(tmp_path / "theirs", 1, 1, 1)
    monkeypatch.setattr("cgsaliency.synth.write_msvd_msrvtt.sample_video_captions", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(tmp_path / "half", 1, 1, 1)
    assert file_digests(dataset_root) == before and [path.name for path in tmp_path.iterdir()] == ["theirs"]
