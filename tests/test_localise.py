"""Localisation against plain loops over the definitions, and the random row of ebr's table 3 on the real annotations."""
from collections import defaultdict
from pathlib import Path
from random import Random

import pandas as pd
import pytest

from cgsaliency.core.records import Action, Record
from cgsaliency.evaluate.intervals import macro_interval, mean_interval
from cgsaliency.evaluate.localise import DEFINITIONS, TimeReading, mean_average_precision, random_pointing, truths_of


# Three definitions of mAP, written as their sources state them

def iou(one: tuple, other: tuple) -> float:
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return shared / (max(one[1], other[1]) - min(one[0], other[0])) if shared > 0 else 0.0


def kit(detections: list[tuple], truths: list[tuple], overlap: float, updated: bool) -> float:
    "AP of one class: (video, span, score) against (video, span, ambiguous)."
    positives, right, wrong, listed = sum(not ambiguous for *_, ambiguous in truths), [], [], []
    for video in sorted({video for video, *_ in detections + truths}):
        own = sorted((one for one in detections if one[0] == video), key=lambda one: -one[2])
        taken = set()
        for _, span, _ in [truth for truth in truths if truth[0] == video and not truth[2]]:
            free = [k for k in range(len(own)) if k not in taken]
            best = max(free, key=lambda k: iou(span, own[k][1]), default=None)
            if best is not None and iou(span, own[best][1]) > overlap: taken.add(best)
        for k, (_, span, score) in enumerate(own):
            if k in taken: right.append((score, True))
            elif any(iou(span, other) > 0 for where, other, ambiguous in truths if where == video and ambiguous): continue
            else: wrong.append((score, False))
            listed.append((score, k in taken))
    listed = sorted(listed if updated else right + wrong, key=lambda one: -one[0])
    points, found = [], 0
    for place, (_, hit) in enumerate(listed, 1):
        found += hit
        points.append((found, found / place, hit))
    if updated: return sum(precision for _, precision, hit in points if hit) / positives
    return sum(max([precision for found, precision, _ in points if 10 * found >= tenth * positives], default=0) for tenth in range(11)) / 11


def activitynet(detections: list[tuple], truths: list[tuple], overlap: float) -> float:
    truths = [truth for truth in truths if not truth[2]]
    taken, points, found = set(), [], 0
    for place, (video, span, _) in enumerate(sorted(detections, key=lambda one: -one[2]), 1):
        candidates = sorted((k for k, truth in enumerate(truths) if truth[0] == video), key=lambda k: -iou(span, truths[k][1]))
        for k in candidates:
            if iou(span, truths[k][1]) < overlap: break
            if k in taken: continue
            taken.add(k)
            found += 1
            break
        points.append((found / len(truths), found / place))
    area, recall = 0.0, 0.0
    for k, (reached, _) in enumerate(points):
        area += (reached - recall) * max(precision for _, precision in points[k:])
        recall = reached
    return area


@pytest.mark.parametrize("seed", range(6))
def test_map_is_what_the_definitions_say(seed):
    chance = Random(f"map/{seed}")
    def spans(count): return [(f"v{chance.randrange(4)}", (start := chance.randrange(0, 60), start + chance.randrange(1, 20))) for _ in range(count)]
    truths = {label: [(*one, False) for one in spans(12)] for label in ("Diving", "Running", "Jumping")}
    doubts = [(*one, True) for one in spans(3)]
    detections = {label: [(*one, chance.randrange(1, 9) / 10) for one in spans(25)] for label in ("Diving", "Running", "Swimming")}    # few scores: many are equal
    table = lambda groups, last: pd.DataFrame([(video, label, *span, value) for label, group in groups.items() for video, span, value in group], columns=["video", "label", "start", "stop", last])
    given, known = table(detections, "score"), table(truths | {"Ambiguous": doubts}, "ambiguous")
    for overlap in (0.1, 0.3, 0.5):
        slow = {label: (kit(detections.get(label, []), own + doubts, overlap, False), kit(detections.get(label, []), own + doubts, overlap, True), activitynet(detections.get(label, []), own, overlap))
                for label, own in truths.items()}
        for place, definition in enumerate(DEFINITIONS):
            mean, values = mean_average_precision(given, known, overlap, definition)
            assert values == pytest.approx({label: three[place] for label, three in slow.items()}) and mean == pytest.approx(sum(values.values()) / 3)
            assert 0 < values["Diving"] < 1 and values["Jumping"] == 0


# The random row of table 3

@pytest.fixture(scope="session")
def thumos(shared_data) -> list[Record]:
    "The test films of THUMOS14 with their actions, in the order of the files."
    actions = defaultdict(list)
    for path in sorted((shared_data / "thumos14" / "annotation" / "annotation_test").glob("*_test.txt")):
        name = path.name.removesuffix("_test.txt")
        for line in path.read_text().splitlines():
            if line.strip():
                video, start, stop = line.split()
                actions[video].append(Action(name, float(start), float(stop), ambiguous=name == "Ambiguous"))
    return [Record(video, Path(f"{video}.mp4"), 320, 180, actions=tuple(own)) for video, own in sorted(actions.items())]


def test_the_annotations_are_those_of_the_challenge(thumos):
    truths = truths_of(thumos)
    assert len(thumos) == 213 and (~truths.ambiguous).sum() == 3358 and truths.ambiguous.sum() == 99 and truths[~truths.ambiguous].label.nunique() == 20


def test_the_truth_finds_itself(thumos):
    truths = truths_of(thumos)
    for definition in DEFINITIONS: assert mean_average_precision(truths[~truths.ambiguous].assign(score=1.0), truths, 0.5, definition)[0] == pytest.approx(1)


READINGS = {  # unit, within: the random row in %, over all units at 30 and 25 frames a second, then over the classes' means; the paper has 57.3
    ("pair", "own"): (51.8, 47.1, 48.9, 44.8), ("pair", "class"): (62.1, 59.6, 58.5, 56.1), ("annotation", "own"): (66.3, 60.4, 67.4, 61.3),
    ("main", "own"): (62.8, 56.5, 63.8, 57.4), ("main", "class"): (70.1, 66.3, 70.1, 65.8), ("clip", "class"): (61.4, 58.6, 57.0, 54.1),
}


def test_the_random_row_under_each_reading(thumos):
    rows = {(reading, rate): random_pointing(thumos, TimeReading(*reading), rate=rate) for reading in READINGS for rate in (30, 25)}
    found = {(*key, "all"): mean_interval(one, "random", "record") for key, one in rows.items()} | {(*key, "classes"): macro_interval(one, "random", "record", "class") for key, one in rows.items()}
    assert {reading: tuple(round(100 * found[reading, rate, over].mean, 1) for over in ("all", "classes") for rate in (30, 25)) for reading in READINGS} == READINGS
    nearest = min(found, key=lambda key: abs(100 * found[key].mean - 57.3))
    assert nearest == (("main", "own"), 25, "classes") and found[nearest].n == 3358     # each annotation once, where most of it is seen, R-C3D's rate, averaged over the classes
