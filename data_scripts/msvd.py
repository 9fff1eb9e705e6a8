"""MSVD: 1,970 short videos with about forty English captions each. `python data_scripts/msvd.py DATA [--check]`."""

import sys
from pathlib import Path

from cgsaliency.core.errors import InputError
from cgsaliency.data.msvd import read_descriptions, read_mapping
from fetching import DataSet, Source, count_problems, file_problems, main

BY_HAND = """Videos and captions can be downloaded. The split (1,200 / 100 / 670) is defined by a mapping of the S2VT
authors: put youtube_mapping.txt, with lines '<clip> vid<N>', into   DATA/msvd/   (it is in
youtube_video_to_id_mapping of Venugopalan's pages and in many repositories)."""
NUM_VIDEOS = 1970


def check(folder: Path, num_videos: int = NUM_VIDEOS):
    problems = []
    try:
        mapping = read_mapping(folder / "youtube_mapping.txt")
        problems += [
            *count_problems(folder / "youtube_mapping.txt", "videos", len(mapping), num_videos),
            *file_problems(folder / "YouTubeClips", [f"{name}.avi" for name in mapping], ".avi"),
        ]
    except InputError as error:
        clips = list((folder / "YouTubeClips").glob("*.avi"))
        problems += [str(error), *count_problems(folder / "YouTubeClips", "videos", len(clips), num_videos)]
        mapping = {}
    try:
        without_caption = sorted(mapping.keys() - read_descriptions(folder).keys())
        problems += [f"{folder}: {name} has no caption" for name in without_caption]
    except InputError as error:
        problems.append(str(error))
    return problems


MSVD = DataSet(
    "MSVD",
    "msvd",
    BY_HAND,
    check,
    (
        Source(
            "https://www.cs.utexas.edu/users/ml/clamp/videoDescription/YouTubeClips.tar",
            "YouTubeClips.tar",
            "",
            ".",
            "videos",
        ),
        Source(
            "https://www.cs.utexas.edu/users/ml/clamp/videoDescription/AllVideoDescriptions.txt",
            "AllVideoDescriptions.txt",
            "",
            "",
            "captions",
        ),
    ),
)
if __name__ == "__main__":
    sys.exit(main(MSVD))
