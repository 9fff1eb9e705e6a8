"""THUMOS14: untrimmed videos with annotated intervals of twenty actions.

`python data_scripts/thumos14.py DATA [--check]`."""

import sys
from pathlib import Path

from cgsaliency.core.errors import InputError
from cgsaliency.data.thumos14 import EXCLUDED_VIDEOS, read_actions
from fetching import DataSet, Source, count_problems, file_problems, main

BY_HAND = """Annotations can be downloaded. Videos of the validation and test sets (300 GB in all) are archives with a
password, which is given after registration at https://www.crcv.ucf.edu/THUMOS14/download.html. Only videos with
annotated intervals are used:
  video_validation_<7 digits>.mp4 (200), video_test_<7 digits>.mp4 (213)   into   DATA/thumos14/videos/"""
BASE_URL = "https://www.crcv.ucf.edu/THUMOS14"
NUM_VIDEOS = {"val": 200, "test": 213}


def check(folder: Path, num_videos: dict = NUM_VIDEOS):
    problems, listed = [], []
    for split, size in num_videos.items():
        try:
            actions = read_actions(folder, split)
        except InputError as error:
            problems.append(str(error))
            continue
        problems += count_problems(folder, f"annotated videos of split {split}", len(actions), size)
        listed += [f"{name}.mp4" for name in actions if name not in EXCLUDED_VIDEOS]
    for problem in file_problems(folder / "videos", listed, ".mp4"):
        if not any(name in problem for name in EXCLUDED_VIDEOS):
            problems.append(problem)
    return problems


THUMOS14 = DataSet(
    "THUMOS14",
    "thumos14",
    BY_HAND,
    check,
    (
        Source(
            f"{BASE_URL}/Validation_set/TH14_Temporal_annotations_validation.zip",
            "TH14_Temporal_annotations_validation.zip",
            "",
            ".",
            "annotations",
        ),
        Source(
            f"{BASE_URL}/test_set/TH14_Temporal_annotations_test.zip",
            "TH14_Temporal_annotations_test.zip",
            "",
            ".",
            "annotations",
        ),
    ),
)
if __name__ == "__main__":
    sys.exit(main(THUMOS14))
