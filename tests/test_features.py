"""Features that are extracted with kills in between are those extracted in one go, and nothing is extracted twice that was done."""
import json, subprocess, sys
from pathlib import Path

import pytest
import torch
from dying import kill_at_each_rename, rename_moments

from cgsaliency.core.errors import BadInput
from cgsaliency.models.features import FeatureStore, StoredValues

IDS, SHAPE, BLOCK = [f"picture {i}" for i in range(23)], (3, 5), 4        # six blocks, the last of three
BLOCKS = [IDS[k:k + BLOCK] for k in range(0, len(IDS), BLOCK)]
RENAMES = 1 + len(BLOCKS)       # of the key, and of each block


def features(names: list[str]) -> torch.Tensor:
    "What only the name decides; the third block is all zero."
    numbers = torch.tensor([float(name.split()[1]) for name in names])
    return (torch.arange(15.).view(1, *SHAPE) + numbers.view(-1, 1, 1)) * (torch.tensor([name not in BLOCKS[2] for name in names]).view(-1, 1, 1))


def store(folder: Path, **changes) -> FeatureStore:
    return FeatureStore(**{"folder": folder, "key": {"backbone": "by hand", "weights": Path("here")}, "ids": IDS, "shape": SHAPE, "block": BLOCK} | changes)


def extract(folder: Path, log: Path) -> FeatureStore:
    def describe(names):
        with log.open("a") as file: file.write(json.dumps(names) + "\n")
        return features(names)
    return store(folder).extract(describe, progress=False)


def asked(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture(scope="module")
def extracted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("extracted")
    subprocess.run([sys.executable, __file__, folder], check=True, timeout=300)
    return folder


@pytest.mark.parametrize("moment", rename_moments(RENAMES))
def test_killed_and_resumed_equals_undisturbed(extracted, moment):
    first, second, third = (asked(extracted / f"{moment}.{run}") for run in ("first", "second", "third"))
    resumed = store(extracted / moment)
    assert resumed.done.all() and resumed.missing() == []
    assert torch.equal(resumed.in_memory().float(), features(IDS))
    whole = store(extracted / "undisturbed")
    assert all(resumed.file(k).read_bytes() == whole.file(k).read_bytes() for k in range(len(BLOCKS)))
    which, after = int(moment.split("-")[0]), moment.endswith("True")
    marked = max(0, which - 1 + after)           # blocks that were in place when the kill came
    assert first == BLOCKS[:len(first)] and len(first) - marked in (0, 1)
    assert second == BLOCKS[marked:], "the second run extracts what is missing, and only that"
    assert third == [], "the third run has nothing to do"


def test_undisturbed_is_what_was_described(extracted):
    assert asked(extracted / "undisturbed.log") == BLOCKS
    whole = store(extracted / "undisturbed")
    assert whole.in_memory().dtype == torch.float16 and torch.equal(whole.in_memory().float(), features(IDS))
    names = [IDS[22], IDS[0], IDS[9], IDS[22]]
    from_disk = store(extracted / "undisturbed").batch(names)
    assert from_disk.dtype == torch.float32 and torch.equal(from_disk, features(names)) and torch.equal(from_disk, whole.batch(names))
    assert torch.equal(whole[IDS[5]], features([IDS[5]])[0])


def test_opening_again_writes_nothing(extracted):
    paths = [path for path in (extracted / "undisturbed").rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in paths}
    store(extracted / "undisturbed").extract(None, progress=False).in_memory()
    assert {path: path.stat().st_mtime_ns for path in (extracted / "undisturbed").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("changes", [{"key": {"backbone": "other"}}, {"ids": IDS[::-1]}, {"ids": IDS[:-1]}, {"shape": (5, 3)}, {"block": 5}])
def test_another_key_is_another_store(extracted, changes):
    other = store(extracted / "undisturbed", **changes)
    assert other.folder != store(extracted / "undisturbed").folder and not other.done.any() and other.missing() == list(other.ids)


def copy(extracted: Path, folder: Path) -> FeatureStore:
    before = store(extracted / "undisturbed")
    for path in before.folder.rglob("*"):
        if path.is_file():
            to = folder / before.folder.name / path.relative_to(before.folder)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(path.read_bytes())
    return store(folder)


@pytest.mark.parametrize("length", [0, 1, 9, -1])
def test_truncated_block_is_named_and_healed(extracted, tmp_path, length):
    broken = copy(extracted, tmp_path)
    broken.file(3).write_bytes(broken.file(3).read_bytes()[:length])
    for use in (broken.in_memory, lambda: broken[IDS[13]]):
        with pytest.raises(BadInput, match="000003.safetensors: block cannot be read.*Delete this file and call extract"): use()
    assert torch.equal(broken[IDS[0]], features([IDS[0]])[0])
    broken.file(3).unlink()
    again = extract(tmp_path, tmp_path / "log")
    assert asked(tmp_path / "log") == [BLOCKS[3]] and torch.equal(again.in_memory().float(), features(IDS))


def test_every_turned_bit_is_noticed(extracted, tmp_path):
    broken = copy(extracted, tmp_path)
    whole = broken.file(1).read_bytes()
    for place in range(len(whole)):
        broken.file(1).write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1:])
        try: values = broken[IDS[5]]
        except BadInput: continue
        assert torch.equal(values, features([IDS[5]])[0]), f"byte {place}: another value was read without an error"


def test_missing_block_is_missing_and_not_zero(extracted, tmp_path):
    gone = copy(extracted, tmp_path)
    gone.file(1).unlink()
    assert gone.missing() == BLOCKS[1] and gone.done.tolist() == [True, False, True, True, True, True]
    with pytest.raises(BadInput, match="1 of 6 blocks are missing. Call extract first"): gone.in_memory()
    with pytest.raises(BadInput, match="000001.safetensors: block is missing"): gone.batch([IDS[0], IDS[5]])


def test_other_files_in_place_are_refused(extracted, tmp_path):
    place = copy(extracted, tmp_path)
    key, block = place.folder / "key.json", place.file(2)
    for path, content, says in [(key, b"{}", "is not the key of this store"), (key, b"{", "is not whole JSON"), (block, b"", "block cannot be read"), (block, key.read_bytes(), "block cannot be read"),
                                (block, place.file(5).read_bytes(), r"has shape \(3, 3, 5\); expected \(3, 5\) for each of 4")]:
        before = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(BadInput, match=says): store(tmp_path).in_memory()
        path.write_bytes(before)
    assert json.loads(key.read_text())["weights"] == "here"


def test_from_disk_as_from_memory(extracted):
    "What a training reads of a store that is larger than its limit is what a tensor gives."
    whole = store(extracted / "undisturbed")
    disk, memory = whole.values(limit=0), store(extracted / "undisturbed").values()
    assert isinstance(disk, StoredValues) and isinstance(memory, torch.Tensor) and whole._loaded is None
    for seed in range(20):
        numbers = torch.randint(len(IDS), (7,), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(disk[numbers], memory[numbers])
    assert torch.equal(torch.cat(list(disk.split(5))), memory) and [len(part) for part in disk.split(5)] == [len(part) for part in memory.split(5)]
    with pytest.raises(BadInput, match="6 of 6 blocks are missing"): store(extracted / "undisturbed", key={"other": 1}).values(limit=0)


def test_what_loads_ahead_changes_nothing(tmp_path):
    "Loading in a thread, as on a GPU, gives the same blocks."
    import cgsaliency.models.features as module
    from cgsaliency.core.prefetch import prefetch
    loaded = []
    def load(names):
        loaded.append(names)
        return names
    module.batches_on, before = lambda device, make, items: prefetch(make, items, 2), module.batches_on
    try: ahead = store(tmp_path / "ahead").extract(features, progress=False, load=load)
    finally: module.batches_on = before
    assert loaded == BLOCKS and torch.equal(ahead.in_memory().float(), features(IDS))


@pytest.mark.parametrize("value", [65536.0, -1e5, float("inf"), float("nan")])
def test_overflow_is_refused_and_not_marked(tmp_path, value):
    def describe(names):
        values = features(names)
        if IDS[6] in names: values[2, 1, 1] = value
        return values
    with pytest.raises(BadInput, match="'picture 6' hold values beyond ±65504 or not numbers"): store(tmp_path).extract(describe, progress=False)
    assert store(tmp_path).done.tolist() == [True] + [False] * 5


def test_largest_half_is_kept(tmp_path):
    kept = store(tmp_path, ids=["a"], shape=(2,)).extract(lambda names: torch.tensor([[65504., -65504.]]), progress=False)
    assert kept["a"].tolist() == [65504, -65504]


def test_shapes_lists_and_unknown_pictures(tmp_path):
    for use, says in [(lambda: store(tmp_path).extract(lambda names: torch.zeros(len(names), 5, 3), progress=False), r"\(4, 5, 3\); expected \(4, 3, 5\)"),
                      (lambda: store(tmp_path).extract(lambda names: features(names)[:2], progress=False), r"\(2, 3, 5\); expected \(4, 3, 5\)"),
                      (lambda: store(tmp_path, ids=[]), "no picture"), (lambda: store(tmp_path, ids=["a", "a"]), "'a' is listed twice"),
                      (lambda: store(tmp_path, block=0), "block is 0"), (lambda: store(tmp_path)["cat"], "has no picture 'cat'")]:
        with pytest.raises(BadInput, match=says): use()
    assert not store(tmp_path).done.any()


if __name__ == "__main__": kill_at_each_rename(Path(sys.argv[1]), extract, RENAMES, ("second", "third"))
