"""UCF101: 13,320 clips of 101 actions, their splits, and who acts where in 24 of them. `python data_scripts/ucf101.py DATA [--only lists] [--check]`."""
import sys
from pathlib import Path

from cgsaliency.core.errors import BadInput
from cgsaliency.data.ucf101 import read_classes, read_split
from fetching import DataSet, Source, compared, counted, main, read_by

BY_HAND = """Clips (7 GB, RAR: needs bsdtar, unrar or 7z) and lists can be downloaded. Boxes of 24 classes: ask for THUMOS15's or take the corrected ones of
Singh et al. (github.com/gurkirt/corrected-UCF101-Annots); put
  <Class>/<clip>.xgtf   into   DATA/ucf101/UCF101_24_Annotations/
  pyannot.pkl           into   DATA/ucf101/ucf24_annotations/      (read without running anything of it)"""
PLACE = "https://www.crcv.ucf.edu/data/UCF101"
CLIPS, CLASSES = 13320, 101


def check(folder: Path, clips: int = CLIPS, classes: int = CLASSES):
    try:
        problems = counted(folder / "ucfTrainTestlist/classInd.txt", "classes", len(read_classes(folder)), classes)
        parts = read_split(folder, 1)
    except BadInput as error: return [str(error), *counted(folder / "UCF-101", "clips", len(list((folder / "UCF-101").rglob("*.avi"))), clips)]
    listed = [f"{clip}.avi" for own in parts.values() for clip in own]
    there = {path.relative_to(folder / "UCF-101").as_posix().casefold(): path.relative_to(folder / "UCF-101").as_posix() for path in (folder / "UCF-101").rglob("*.avi")}
    spelled = [there.get(clip.casefold(), clip) for clip in listed]       # the lists write HandStandPushups in two ways
    boxes = [] if (folder / "UCF101_24_Annotations").is_dir() or (folder / "ucf24_annotations/pyannot.pkl").is_file() else [f"{folder}: boxes are missing: neither UCF101_24_Annotations nor ucf24_annotations/pyannot.pkl"]
    return [*problems, *counted(folder / "ucfTrainTestlist", "clips in split 1", len(listed), clips), *(problem for split in (2, 3) for problem in read_by(lambda: read_split(folder, split))), *compared(folder / "UCF-101", spelled, ".avi"), *boxes]


UCF101 = DataSet("UCF101", "ucf101", BY_HAND, check, (
    Source(f"{PLACE}/UCF101TrainTestSplits-RecognitionTask.zip", "UCF101TrainTestSplits-RecognitionTask.zip", "sha256:5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27", ".", "lists"),
    Source(f"{PLACE}/UCF101.rar", "UCF101.rar", "sha256:ca8dfadb4c891cb11316f94d52b6b0ac2a11994e67a0cae227180cd160bd8e55", ".", "clips")))
if __name__ == "__main__": sys.exit(main(UCF101))
