"""Proposals: the same everywhere, inside the picture, kept whole or refused."""
import gzip, json, subprocess, sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from faults import refused, spoil

from cgsaliency.core.geometry import View
from cgsaliency.core.records import Record
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.data.frames import read_picture
from cgsaliency.data.proposals import ProposalStore, drawn, edge_boxes, edge_map, grid_boxes, recalled, selective_search
from cgsaliency.data.scenes import draw, imagine

FINDERS = {"edge_boxes": edge_boxes, "selective_search": selective_search}

ALONE = """
import hashlib, sys
import cv2
cv2.setNumThreads(int(sys.argv[1]))
cv2.setRNGSeed(int(sys.argv[1]))
from cgsaliency.data.proposals import edge_boxes, selective_search
from cgsaliency.data.scenes import draw, imagine
for index in map(int, sys.argv[2:]):
    print(index, *(hashlib.sha256(b"".join(part.numpy().tobytes() for part in find(draw(imagine(3, index))))).hexdigest() for find in (edge_boxes, selective_search)))
"""


def alone(threads: int, *scenes: int) -> set[str]:
    asked = [sys.executable, "-c", ALONE, str(threads), *map(str, scenes)]
    return set(subprocess.run(asked, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent).stdout.splitlines())


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[Record]:
    folder, made = tmp_path_factory.mktemp("pictures"), []
    for index in range(5):
        scene = imagine(3, index)
        draw(scene).save(folder / f"{index}.png")
        made.append(Record(str(index), folder / f"{index}.png", scene.width, scene.height))
    return made


@pytest.fixture(scope="module")
def kept(records, tmp_path_factory) -> ProposalStore:
    return ProposalStore(tmp_path_factory.mktemp("store"), records, block=2).find(progress=False)


@pytest.fixture(scope="module")
def blank(tmp_path_factory) -> Record:
    path = tmp_path_factory.mktemp("blank") / "blank.png"
    Image.new("RGB", (90, 60), (120, 130, 140)).save(path)
    return Record("blank", path, 90, 60)


def test_processes_threads_and_order_change_nothing():
    first = alone(1, 0, 1)
    assert len(first) == 2 and alone(2, 1, 0) == first and alone(4, 0) <= first


@pytest.mark.parametrize("name", FINDERS)
@pytest.mark.parametrize("size", [(160, 120), (500, 375), (75, 240), (24, 16), (500, 12)])
def test_boxes_lie_in_the_picture_best_first(name, size):
    picture = draw(imagine(3, 1)).resize(size)
    boxes, scores = FINDERS[name](picture, 30, none="empty")
    assert len(boxes) == len(scores) <= 30 and boxes.dtype == scores.dtype == torch.float32 and (scores[:-1] >= scores[1:]).all()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= torch.tensor(size) + 1e-3).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    assert len(boxes) or min(size) < 20


@pytest.mark.parametrize("name", FINDERS)
def test_boxes_are_half_open_and_move_with_the_thing(name):
    "Mirrored about the middle, the best box of one thing stays where it is: nothing is counted from 1."
    def best(left: int, top: int) -> torch.Tensor:
        picture = Image.new("RGB", (240, 200), (60, 90, 140))
        picture.paste((240, 220, 80), (left, top, left + 100, top + 80))
        boxes, _ = FINDERS[name](picture)
        return boxes[box_iou(boxes, torch.tensor([[left, top, left + 100, top + 80]]).float()).argmax()]
    centred, moved = best(70, 60), best(90, 76)
    middle = (centred[:2] + centred[2:]) / 2
    assert (middle - torch.tensor([120.0, 100.0])).abs().max() <= 2.5
    assert (moved - centred - torch.tensor([20.0, 16.0]).repeat(2)).abs().max() <= 6
    assert (centred[:2] >= torch.tensor([62, 52])).all() and (centred[:2] <= torch.tensor([71, 61])).all()


@pytest.mark.parametrize("name", FINDERS)
def test_a_picture_without_an_edge(name, blank, tmp_path):
    picture = read_picture(blank.path)
    refused(lambda: FINDERS[name](picture, where="7.jpg"), "7.jpg: has no proposal", "none='whole'")
    assert FINDERS[name](picture, none="whole")[0].tolist() == [[0, 0, 90, 60]]
    refused(lambda: ProposalStore(tmp_path, [blank], name).find(progress=False), "picture 'blank'", "1 of 1 pictures")
    whole = ProposalStore(tmp_path, [blank], name, none="whole").find(progress=False)
    boxes, there = whole.boxes_of([blank], [View.whole(90, 60, 224)], 3)
    assert boxes[0, 0].tolist() == [0, 0, 224, 224] and there.tolist() == [[True, False, False]] and len(whole["blank"][0]) == 0


NO_FOREST = {"absent": (None, "there is no such model"), "empty": (b"", "model.yml.gz"), "words": (b"words", "model.yml.gz"), "bytes": (b"\x00\xff\x00", "cannot be read whole"),
             "of another kind": (gzip.compress(b"%YAML:1.0\n---\na: 1\n"), "options is missing"), "cut off": (gzip.compress(b"%YAML:1.0\n---\na: 1\n" * 50)[:-9], "cannot be read whole"),
             "a part missing": (b"%YAML:1.0\n---\noptions:\n   numberOfTrees: 1\n", "childs is missing")}


@pytest.mark.parametrize("content, says", NO_FOREST.values(), ids=NO_FOREST)   # named: a gzip header has a time in it, and workers must agree on the names of tests
def test_models_that_are_none(content, says, tmp_path):
    path = tmp_path / "model.yml.gz"
    if content is not None: path.write_bytes(content)
    refused(lambda: edge_boxes(draw(imagine(3, 0)), model=path), says, "edges are gradients then")


def forest(path: Path, votes: int = 16) -> Path:
    "A forest of one tree that asks one question: is the gradient in the middle of the patch strong? Then there is an edge."
    options = dict(stride=2, shrinkNumber=2, patchSize=32, patchInnerSize=16, numberOfGradientOrientations=4, gradientSmoothingRadius=0, regFeatureSmoothingRadius=2,
                   ssFeatureSmoothingRadius=8, gradientNormalizationRadius=4, selfsimilarityGridSize=5, numberOfTrees=1, numberOfTreesToEvaluate=1)
    middle = [8 * 16 + 8, 8 * 16 + 7, 7 * 16 + 8, 7 * 16 + 7]
    parts = {"childs": [2, 0, 0], "featureIds": [3 * 256 + 8 * 16 + 8, 0, 0], "thresholds": [.6, 0., 0.], "edgeBoundaries": [0, 0, 0, 4 * votes], "edgeBins": middle * votes}
    lines = ["%YAML:1.0", "---", "options:", *(f"   {name}: {value}" for name, value in options.items())]
    for name, values in parts.items(): lines += [f"{name}:", f"   - [ {', '.join(map(str, values))} ]"]
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    return path


def test_a_forest_gives_the_edges(tmp_path, records):
    model = forest(tmp_path / "model.yml.gz")
    picture = Image.new("RGB", (160, 120), (60, 90, 140))
    picture.paste((240, 220, 80), (50, 30, 120, 90))
    strength, _ = edge_map(picture, model)
    assert strength.max() > 0 and not strength[50:70, 65:105].any()
    assert box_iou(edge_boxes(picture, model=model)[0], torch.tensor([[50., 30., 120., 90.]])).max() > .6
    by_forest = ProposalStore(tmp_path, records[:1], model=model, none="whole").find(progress=False)
    assert by_forest.blocks[0][0] != ProposalStore(tmp_path, records[:1]).blocks[0][0]
    assert by_forest.blocks[0][0] == ProposalStore(tmp_path, records[:1], model=model).blocks[0][0]
    refused(lambda: ProposalStore(tmp_path, records, model=tmp_path / "none.yml.gz"), "there is no such model")


def test_edges_too_weak_for_a_box(tmp_path):
    model = forest(tmp_path / "model.yml.gz", votes=1)
    picture = draw(imagine(3, 0))
    boxes, scores = edge_boxes(picture, model=model, none="empty")
    assert boxes.shape == (0, 4) and scores.shape == (0,) and edge_map(picture, model)[0].any()
    refused(lambda: edge_boxes(picture, model=model), "has no proposal")


def test_what_is_kept_is_what_is_found(kept, records):
    for record in records:
        assert all(torch.equal(one, two) for one, two in zip(kept[record.id], edge_boxes(read_picture(record.path), 100)))
    assert list(kept.seconds()) == [record.id for record in records] and min(kept.seconds().values()) > 0
    assert len(kept.blocks) == 3 and "seconds" not in json.dumps([about for _, about, _ in kept.blocks])


def test_it_goes_on_where_it_was_and_gives_the_same_bytes(kept, records):
    paths = [path for path, _, _ in kept.blocks]
    before, times = [path.read_bytes() for path in paths], [path.stat().st_mtime_ns for path in paths]
    paths[1].unlink()
    again = ProposalStore(kept.folder, records, block=2)
    refused(lambda: again["2"], "is not there", "made again by `find`")
    again.find(progress=False)
    assert [path.read_bytes() for path in paths] == before
    assert [path.stat().st_mtime_ns == time for path, time in zip(paths, times)] == [True, False, True]


def test_settings_and_pictures_have_files_of_their_own(kept, records):
    names = {ProposalStore(kept.folder, *given, block=2, **how).blocks[0][0] for given, how in
             [((records,), {}), ((records,), {"most": 50}), ((records,), {"beta": .55}), ((records, "selective_search"), {}), ((records, "selective_search"), {"seed": 1}), ((records[1:],), {})]}
    assert len(names) == 6 and kept.blocks[0][0] in names
    assert ProposalStore(kept.folder, records[:4], block=2).blocks[0][0] == kept.blocks[0][0]


def test_files_that_are_cut_off_or_others(kept, records, tmp_path):
    path = tmp_path / kept.blocks[0][0].name
    whole = kept.blocks[0][0].read_bytes()
    for content, says in [(whole[:-40], "is not a whole safetensors file"), (b"", "is not a whole safetensors file"), (kept.blocks[1][0].read_bytes(), "holds proposals of other pictures")]:
        spoil(path, content)
        refused(lambda: ProposalStore(tmp_path, records[:2], block=2).find(progress=False), str(path), says)
    refused(lambda: kept.boxes_of([Record("9", Path("9.png"), 9, 9)], [View.whole(9, 9, 9)]), "has no picture '9'")
    broken = Record("cut", tmp_path / "cut.png", 160, 120)
    refused(lambda: ProposalStore(tmp_path, [broken]).find(progress=False), "cut.png", "there is no such picture")


def test_boxes_in_views(kept, records):
    whole, middle = [[make(record.width, record.height, 224) for record in records] for make in (View.whole, View.central)]
    boxes, there = kept.boxes_of(records, whole, 20)
    assert boxes.shape == (5, 20, 4) and there.shape == (5, 20) and not boxes[~there].any()
    for own, mask, record, view in zip(boxes, there, records, whole):
        first = kept[record.id][0][:20]
        assert mask.sum() == len(first) and torch.allclose(own[mask], view.boxes(first))
    boxes, there = kept.boxes_of(records, middle, 20)
    for own, mask, record, view in zip(boxes, there, records, middle):
        by_hand = []
        for x0, y0, x1, y1 in kept[record.id][0].tolist():
            wide, high = min(x1, view.left + view.width) - max(x0, view.left), min(y1, view.top + view.height) - max(y0, view.top)
            if wide > 0 and high > 0 and wide * high >= (x1 - x0) * (y1 - y0) / 2: by_hand.append((x0, y0, x1, y1))
        assert torch.allclose(own[mask], view.boxes(torch.tensor(by_hand[:20])), atol=1e-3)
        assert (own >= 0).all() and (own <= 224).all()
    corner = View(160, 120, 0, 0, 1, 1, 224, 224)
    refused(lambda: kept.boxes_of(records[:1], [corner]), "picture '0'", "its view shows none")


def test_a_file_of_another_size_is_scaled_to_the_annotated_picture(records, tmp_path):
    read_picture(records[0].path).resize((224, 224)).save(tmp_path / "squashed.png")
    record = Record("0", tmp_path / "squashed.png", 160, 120)
    boxes, _ = ProposalStore(tmp_path, [record]).find(progress=False)["0"]
    assert (boxes[:, 2:] <= torch.tensor([160, 120])).all() and boxes[:, 2].max() > 130


def test_drawn_ones_are_chosen_evenly():
    there = torch.tensor([[True] * 8 + [False] * 4]).expand(400, -1)
    boxes = torch.arange(12.)[None, :, None].expand(400, -1, 4)
    some, which = drawn(boxes, there, 4, torch.Generator().manual_seed(1))
    counts = some[..., 0].long().flatten().bincount(minlength=12)
    assert which.all() and counts[8:].sum() == 0 and counts[:8].min() > 150 and counts.sum() == 1600
    assert all(len(set(row)) == 4 for row in some[..., 0].tolist())


def test_photographs(shared_data):
    "On photographs 50 proposals of either method find more of the annotated boxes than a grid does."
    folder = shared_data / "flickr30k" / "original-size"
    part = load_flickr30k(shared_data, "test", "entities", broken="skip", annotations_only=True)
    records = [record for record in part.records if (folder / f"{record.id}.jpg").is_file()][:8]
    if len(records) < 4: pytest.skip("fewer than four test photographs in their own size")
    found = {"grid": [], **{name: [] for name in FINDERS}}
    for record in records:
        picture = read_picture(folder / f"{record.id}.jpg")
        truth = torch.tensor(sorted({box for _, phrase in record.phrase_mentions for box in phrase.boxes}))
        found["grid"].append(recalled(grid_boxes(*picture.size, 50), truth, 50))
        for name, find in FINDERS.items(): found[name].append(recalled(find(picture, 50)[0], truth, 50))
    shares = {name: torch.cat(own).float().mean().item() for name, own in found.items()}
    assert min(shares["edge_boxes"], shares["selective_search"]) > shares["grid"], shares


def test_workers_write_the_same_bytes(kept, records, tmp_path):
    for workers in 1, 3:
        store = ProposalStore(tmp_path / str(workers), records, block=2).find(progress=False, workers=workers)
        assert [path.read_bytes() for path, _, _ in store.blocks] == [path.read_bytes() for path, _, _ in kept.blocks]
        assert list(store.seconds()) == [record.id for record in records]
    broken = Record("cut", tmp_path / "cut.png", 160, 120)
    refused(lambda: ProposalStore(tmp_path / "broken", [*records, broken], block=2).find(progress=False, workers=2), "cut.png", "there is no such picture")
    assert len(list((tmp_path / "broken").glob("*.safetensors"))) == 2                                   # what was whole before it stays


def test_boxes_of_many_are_those_of_each_alone(kept, records):
    "In any order, some twice, across files: as one picture after the other by `View.boxes`."
    order = [4, 0, 3, 0, 1]
    own = [records[k] for k in order]
    for make in View.whole, View.central:
        views = [make(record.width, record.height, 224) for record in own]
        boxes, there = kept.boxes_of(own, views, 70)
        for k, (record, view) in enumerate(zip(own, views)):
            alone, mask = kept.boxes_of([record], [view], 70)
            assert torch.equal(boxes[k], alone[0]) and torch.equal(there[k], mask[0])
            found = kept[record.id][0]
            seen = view.boxes(found)
            enough = (seen[:, 2:] - seen[:, :2]).prod(1) >= 0.5 * (found[:, 2:] - found[:, :2]).prod(1) * (224 / view.width) * (224 / view.height)
            assert torch.equal(seen[enough][:70], boxes[k][there[k]])
