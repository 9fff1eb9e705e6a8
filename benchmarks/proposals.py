"""What proposals find on photographs: `python benchmarks/proposals.py DATA`, with DATA a folder that holds flickr30k/original-size and flickr30k_entities.

Recall of the annotated boxes of Flickr30k Entities at IoU 0.5, in the test photographs of their own size.
"""
import sys
from pathlib import Path

import torch

from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.data.frames import read_picture
from cgsaliency.data.proposals import edge_boxes, grid_boxes, recalled, selective_search
from measure import machine, write_rows

WAYS = {"grid": lambda picture: grid_boxes(*picture.size, 100), "Edge Boxes": lambda picture: edge_boxes(picture, 100)[0],
        "Edge Boxes, β = 0.55": lambda picture: edge_boxes(picture, 100, beta=0.55)[0], "selective search": lambda picture: selective_search(picture, 100)[0]}


def measured(data: Path, counts: tuple[int, ...] = (10, 50, 100)):
    "Rows of name, value, unit, relative_to."
    folder = data / "flickr30k" / "original-size"
    records = [record for part in ("train", "val", "test") for record in load_flickr30k(data, part, "entities", broken="skip", annotations_only=True).records if (folder / f"{record.id}.jpg").is_file()]
    truth = {record.id: torch.tensor(sorted({box for _, phrase in record.phrase_mentions for box in phrase.boxes})) for record in records}
    of = f"{sum(map(len, truth.values()))} boxes of {len(records)} photographs"
    for name, way in WAYS.items():
        found = {record.id: way(read_picture(folder / f"{record.id}.jpg")) for record in records}
        for number in counts: yield f"{name}, {number} boxes", torch.cat([recalled(boxes, truth[id], number) for id, boxes in found.items()]).float().mean().item(), "recall at IoU 0.5", of


if __name__ == "__main__":
    if len(sys.argv) != 2: sys.exit(__doc__)
    write_rows(Path(__file__).parent / "results/proposals.csv", machine(torch.device("cpu")), measured(Path(sys.argv[1])))
