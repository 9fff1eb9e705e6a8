"""MSVD: 1,970 short films with some forty English sentences each. `python data_scripts/msvd.py DATA [--check]`."""
import sys
from pathlib import Path

from cgsaliency.core.errors import BadInput
from cgsaliency.data.msvd import read_descriptions, read_mapping
from fetching import DataSet, Source, compared, counted, main

BY_HAND = """Films and sentences can be downloaded. The mapping that fixes the split (1,200 / 100 / 670) is the S2VT authors': put youtube_mapping.txt, with lines
'<clip> vid<N>', into   DATA/msvd/   (it is in youtube_video_to_id_mapping of Venugopalan's pages and in many repositories)."""
FILMS = 1970


def check(folder: Path, films: int = FILMS):
    problems = []
    try:
        mapping = read_mapping(folder / "youtube_mapping.txt")
        problems += [*counted(folder / "youtube_mapping.txt", "films", len(mapping), films), *compared(folder / "YouTubeClips", [f"{name}.avi" for name in mapping], ".avi")]
    except BadInput as error: problems += [str(error), *counted(folder / "YouTubeClips", "films", len(list((folder / "YouTubeClips").glob("*.avi"))), films)]; mapping = {}
    try: problems += [f"{folder}: no sentence speaks of {name}" for name in sorted(mapping.keys() - read_descriptions(folder).keys())]
    except BadInput as error: problems.append(str(error))
    return problems


MSVD = DataSet("MSVD", "msvd", BY_HAND, check, (
    Source("https://www.cs.utexas.edu/users/ml/clamp/videoDescription/YouTubeClips.tar", "YouTubeClips.tar", "", ".", "films"),
    Source("https://www.cs.utexas.edu/users/ml/clamp/videoDescription/AllVideoDescriptions.txt", "AllVideoDescriptions.txt", "", "", "sentences")))
if __name__ == "__main__": sys.exit(main(MSVD))
