"""MSR-VTT (2016): 10,000 films with twenty sentences each. `python data_scripts/msrvtt.py DATA [--check]`."""
import sys
from pathlib import Path

from cgsaliency.core.errors import BadInput
from cgsaliency.data.msrvtt import part_of, read_msrvtt
from fetching import DataSet, compared, counted, main

BY_HAND = """The challenge's own site is gone; the data are given by those who organised it, and copies are around. Put
  train_val_videodatainfo.json, test_videodatainfo.json   into   DATA/msrvtt/   (or their zip archives, as they are)
  TrainValVideo/video<N>.mp4, TestVideo/video<N>.mp4      into   DATA/msrvtt/"""
FILMS = {"train": 6513, "val": 497, "test": 2990}


def check(folder: Path, films: dict = FILMS):
    try: names = list(read_msrvtt(folder))
    except BadInput as error: return [str(error)]
    found = {part: [name for name in names if part_of(name) == part] for part in films}
    problems = [problem for part, own in found.items() for problem in counted(folder, f"films of part {part}", len(own), films[part])]
    return [*problems, *compared(folder / "TrainValVideo", [f"{name}.mp4" for part in ("train", "val") for name in found[part]], ".mp4"), *compared(folder / "TestVideo", [f"{name}.mp4" for name in found["test"]], ".mp4")]


MSRVTT = DataSet("MSR-VTT", "msrvtt", BY_HAND, check)
if __name__ == "__main__": sys.exit(main(MSRVTT))
