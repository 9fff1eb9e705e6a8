"""The frames and clips that the pointing game for actors judges."""

from pathlib import Path

import pytest

from cgsaliency.core.errors import InputError
from cgsaliency.core.records import ActionInterval, Sample
from cgsaliency.evaluate.actor_pointing import first_of_groups, frames_to_judge


def make_sample(frames, id="v_Diving_g01_c01"):
    action = ActionInterval("Diving", boxes=((0, 0, 10, 10),) * len(frames), frames=tuple(frames))
    return Sample(id, Path(f"{id}.avi"), 160, 120, actions=(action,))


@pytest.mark.parametrize(
    "max_frames, expected",
    [(None, [2, 3, 4, 5, 6, 7]), (6, [2, 3, 4, 5, 6, 7]), (9, [2, 3, 4, 5, 6, 7]), (3, [3, 5, 7]), (1, [5])],
)
def test_frames_with_boxes_are_evenly_spaced(max_frames, expected):
    sample = make_sample(range(12, 18))
    assert frames_to_judge(sample, "Diving", range(10, 30), max_frames) == expected


def test_frames_outside_the_clip_and_repeated_frames_are_not_judged():
    sample = make_sample([1, 2, 9])
    assert frames_to_judge(sample, "Diving", [2, 3, 3, 2]) == [0]
    assert frames_to_judge(sample, "LongJump", [1, 2]) == []
    with pytest.raises(InputError, match="frames to judge"):
        frames_to_judge(sample, "Diving", [1], 0)


def test_the_first_samples_of_each_group_are_kept():
    ids = ["a_c01", "b_c01", "a_c02", "a_c03", "b_c02"]
    samples = [make_sample([0], id) for id in ids]
    judged = first_of_groups(samples, lambda id: id[0], 2)
    assert [sample.id for sample in judged] == ["a_c01", "b_c01", "a_c02", "b_c02"]
    assert first_of_groups(samples, lambda id: id[0]) == samples
