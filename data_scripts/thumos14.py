"""THUMOS14: untrimmed films in which twenty actions are annotated in time. `python data_scripts/thumos14.py DATA [--check]`."""
import sys
from pathlib import Path

from cgsaliency.core.errors import BadInput
from cgsaliency.data.thumos14 import WRONG, read_actions
from fetching import DataSet, Source, compared, counted, main

BY_HAND = """Annotations can be downloaded. Films of the validation and test sets (300 GB in all) are packed with a password, which whoever registers at
https://www.crcv.ucf.edu/THUMOS14/download.html gets. Only those that are annotated in time are used:
  video_validation_<7 digits>.mp4 (200), video_test_<7 digits>.mp4 (213)   into   DATA/thumos14/videos/"""
PLACE = "https://www.crcv.ucf.edu/THUMOS14"
FILMS = {"val": 200, "test": 213}


def check(folder: Path, films: dict = FILMS):
    problems, listed = [], []
    for part, size in films.items():
        try: own = read_actions(folder, part)
        except BadInput as error: problems.append(str(error)); continue
        problems += counted(folder, f"annotated films of part {part}", len(own), size)
        listed += [f"{name}.mp4" for name in own if name not in WRONG]
    return [*problems, *(problem for problem in compared(folder / "videos", listed, ".mp4") if not any(name in problem for name in WRONG))]


THUMOS14 = DataSet("THUMOS14", "thumos14", BY_HAND, check, (
    Source(f"{PLACE}/Validation_set/TH14_Temporal_annotations_validation.zip", "TH14_Temporal_annotations_validation.zip", "", ".", "annotations"),
    Source(f"{PLACE}/test_set/TH14_Temporal_annotations_test.zip", "TH14_Temporal_annotations_test.zip", "", ".", "annotations")))
if __name__ == "__main__": sys.exit(main(THUMOS14))
