"""MSR-VTT (2016): 10,000 videos with twenty captions each. `python data_scripts/msrvtt.py DATA [--check]`."""

import sys
from pathlib import Path

from cgsaliency.core.errors import InputError
from cgsaliency.data.msrvtt import msrvtt_split, read_msrvtt
from fetching import DataSet, count_problems, file_problems, main

BY_HAND = """The site of the challenge no longer exists; its organizers and other sites offer the data. Put
  train_val_videodatainfo.json, test_videodatainfo.json   into   DATA/msrvtt/   (or their zip archives)
  TrainValVideo/video<N>.mp4, TestVideo/video<N>.mp4      into   DATA/msrvtt/"""
NUM_VIDEOS = {"train": 6513, "val": 497, "test": 2990}


def check(folder: Path, num_videos: dict = NUM_VIDEOS):
    try:
        names = list(read_msrvtt(folder))
    except InputError as error:
        return [str(error)]
    videos = {split: [f"{name}.mp4" for name in names if msrvtt_split(name) == split] for split in num_videos}
    problems = []
    for split, files in videos.items():
        problems += count_problems(folder, f"videos of split {split}", len(files), num_videos[split])
    return [
        *problems,
        *file_problems(folder / "TrainValVideo", [*videos["train"], *videos["val"]], ".mp4"),
        *file_problems(folder / "TestVideo", videos["test"], ".mp4"),
    ]


MSRVTT = DataSet("MSR-VTT", "msrvtt", BY_HAND, check)
if __name__ == "__main__":
    sys.exit(main(MSRVTT))
