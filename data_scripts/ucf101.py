"""UCF101: 13,320 clips of 101 actions, their splits, and boxes of the actors for 24 of the actions.

`python data_scripts/ucf101.py DATA [--only lists] [--check]`."""

import sys
from functools import partial
from pathlib import Path

from cgsaliency.core.errors import InputError
from cgsaliency.data.ucf101 import read_classes, read_fold
from fetching import DataSet, Source, count_problems, file_problems, loader_problems, main

BY_HAND = """Clips (7 GB, RAR: needs bsdtar, unrar or 7z) and lists can be downloaded. Boxes of 24 classes: request
those of THUMOS15, or use the corrected ones of Singh et al. (github.com/gurkirt/corrected-UCF101-Annots); put
  <Class>/<clip>.xgtf   into   DATA/ucf101/UCF101_24_Annotations/
  pyannot.pkl           into   DATA/ucf101/ucf24_annotations/      (read without running code in it)"""
BASE_URL = "https://www.crcv.ucf.edu/data/UCF101"
CLIPS, CLASSES = 13320, 101


def check(folder: Path, clips: int = CLIPS, classes: int = CLASSES):
    lists, videos = folder / "ucfTrainTestlist", folder / "UCF-101"
    existing = [path.relative_to(videos).as_posix() for path in videos.rglob("*.avi")]
    try:
        problems = count_problems(lists / "classInd.txt", "classes", len(read_classes(folder)), classes)
        splits = read_fold(folder, 1)
    except InputError as error:
        return [str(error), *count_problems(videos, "clips", len(existing), clips)]
    listed = [f"{clip}.avi" for split_clips in splits.values() for clip in split_clips]
    problems += count_problems(lists, "clips in split 1", len(listed), clips)
    for fold in (2, 3):
        problems += loader_problems(partial(read_fold, folder, fold))
    # the lists spell HandStandPushups in two ways
    by_lower_case = {name.casefold(): name for name in existing}
    problems += file_problems(videos, [by_lower_case.get(clip.casefold(), clip) for clip in listed], ".avi")
    if not (folder / "UCF101_24_Annotations").is_dir() and not (folder / "ucf24_annotations/pyannot.pkl").is_file():
        problems.append(f"{folder}: boxes are missing: neither UCF101_24_Annotations nor ucf24_annotations/pyannot.pkl")
    return problems


UCF101 = DataSet(
    "UCF101",
    "ucf101",
    BY_HAND,
    check,
    (
        Source(
            f"{BASE_URL}/UCF101TrainTestSplits-RecognitionTask.zip",
            "UCF101TrainTestSplits-RecognitionTask.zip",
            "sha256:5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
            ".",
            "lists",
        ),
        Source(
            f"{BASE_URL}/UCF101.rar",
            "UCF101.rar",
            "sha256:ca8dfadb4c891cb11316f94d52b6b0ac2a11994e67a0cae227180cd160bd8e55",
            ".",
            "clips",
        ),
    ),
)
if __name__ == "__main__":
    sys.exit(main(UCF101))
