"""Loaders of captioned videos: a listed clip whose video is missing or broken."""

import pytest

from assertions import assert_input_error
from video_helpers import VIDEO_DATASETS, VIDEO_FAULTS


@pytest.mark.parametrize("fault", ["missing", "text", "half cut off"])
def test_clips_with_a_broken_video_raise_or_are_skipped_and_listed(
    dataset_name, video_dataset, video_dataset_copy, fault
):
    _, load = VIDEO_DATASETS[dataset_name]
    samples = load(video_dataset).samples
    path = video_dataset_copy / samples[1].path.relative_to(video_dataset)
    damage, message = VIDEO_FAULTS[fault]
    damage(path)
    assert_input_error(lambda: load(video_dataset_copy), message, path.name)
    remaining = load(video_dataset_copy, on_error="skip")
    assert [sample.id for sample in remaining.samples] == [samples[0].id, samples[2].id]
    ((_, reason),) = remaining.skipped
    assert (
        message in reason
        and path.name in reason
        and remaining.skipped_note == f"1 of 3 test samples left out: {reason}"
    )
    assert [sample.id for sample in load(video_dataset_copy, "train").samples] == [
        sample.id for sample in load(video_dataset, "train").samples
    ]  # other splits are not affected
    for sample in samples:
        (video_dataset_copy / sample.path.relative_to(video_dataset)).unlink(missing_ok=True)
    assert_input_error(lambda: load(video_dataset_copy, on_error="skip"), "no test sample can be used; the first")
