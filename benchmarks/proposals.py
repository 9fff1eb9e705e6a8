"""Recall of proposals on photographs: `python benchmarks/proposals.py DATA`, with DATA a folder that holds
flickr30k/original-size and flickr30k_entities.

Recall of the annotated boxes of Flickr30k Entities at IoU 0.5, in photographs of their original size.
"""

import sys
from pathlib import Path

import torch

from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.data.media import read_image
from cgsaliency.features.proposals import box_recall, edge_boxes, selective_search, sliding_window_boxes
from measure import machine, write_rows

METHODS = {
    "grid": lambda image: sliding_window_boxes(*image.size, 100),
    "Edge Boxes": lambda image: edge_boxes(image, 100)[0],
    "Edge Boxes, β = 0.55": lambda image: edge_boxes(image, 100, beta=0.55)[0],
    "selective search": lambda image: selective_search(image, 100)[0],
}


def measured(data: Path, counts: tuple[int, ...] = (10, 50, 100)):
    "Yield rows of name, value, unit, relative_to."
    folder = data / "flickr30k" / "original-size"
    samples = [
        sample
        for split in ("train", "val", "test")
        for sample in load_flickr30k(data, split, "entities", on_error="skip", annotations_only=True).samples
        if (folder / f"{sample.id}.jpg").is_file()
    ]
    truth = {
        sample.id: torch.tensor(sorted({box for _, phrase in sample.phrase_mentions for box in phrase.boxes}))
        for sample in samples
    }
    description = f"{sum(map(len, truth.values()))} boxes of {len(samples)} photographs"
    for name, method in METHODS.items():
        proposals = {sample.id: method(read_image(folder / f"{sample.id}.jpg")) for sample in samples}
        for count in counts:
            hits = torch.cat([box_recall(boxes, truth[id], count) for id, boxes in proposals.items()])
            yield f"{name}, {count} boxes", hits.float().mean().item(), "recall at IoU 0.5", description


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_rows(
        Path(__file__).parent / "results/proposals.csv", machine(torch.device("cpu")), measured(Path(sys.argv[1]))
    )
