"""The feature cache: an extraction that is killed and resumed equals an undisturbed one, and extracts nothing twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cgsaliency.core.errors import InputError
from cgsaliency.features.cache import CachedFeatures, FeatureCache
from process_helpers import kill_at_each_rename, rename_kill_points, script_environment

IDS, SHAPE, CHUNK_SIZE = [f"image {i}" for i in range(23)], (3, 5), 4  # six chunks, the last of three
CHUNKS = [IDS[k : k + CHUNK_SIZE] for k in range(0, len(IDS), CHUNK_SIZE)]
RENAMES = 1 + len(CHUNKS)  # of the key, and of each chunk


def make_features(ids: list[str]) -> torch.Tensor:
    "Return features that depend on the ids alone; those of the third chunk are zero."
    numbers = torch.tensor([float(name.split()[1]) for name in ids])
    return (torch.arange(15.0).view(1, *SHAPE) + numbers.view(-1, 1, 1)) * (
        torch.tensor([name not in CHUNKS[2] for name in ids]).view(-1, 1, 1)
    )


def open_cache(folder: Path, **changes) -> FeatureCache:
    return FeatureCache(
        **{
            "cache_dir": folder,
            "key": {"backbone": "by hand", "weights": Path("here")},
            "ids": IDS,
            "shape": SHAPE,
            "chunk_size": CHUNK_SIZE,
        }
        | changes
    )


def extract(folder: Path, log: Path) -> FeatureCache:
    def extract_fn(ids):
        with log.open("a") as file:
            file.write(json.dumps(ids) + "\n")
        return make_features(ids)

    return open_cache(folder).extract(extract_fn, progress=False)


def extracted_ids(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture(scope="module")
def extracted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("extracted")
    subprocess.run([sys.executable, __file__, folder], check=True, timeout=300, env=script_environment())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("moment", rename_kill_points(RENAMES))
def test_killed_and_resumed_equals_undisturbed(extracted, moment):
    first, second, third = (extracted_ids(extracted / f"{moment}.{run}") for run in ("first", "second", "third"))
    resumed = open_cache(extracted / moment)
    assert resumed.chunks_done.all() and resumed.missing_ids() == []
    assert torch.equal(resumed.load_all().float(), make_features(IDS))
    undisturbed = open_cache(extracted / "undisturbed")
    assert all(resumed.chunk_path(k).read_bytes() == undisturbed.chunk_path(k).read_bytes() for k in range(len(CHUNKS)))
    index, after = int(moment.split("-")[0]), moment.endswith("True")
    num_done = max(0, index - 1 + after)  # chunks that were written before the kill
    assert first == CHUNKS[: len(first)] and len(first) - num_done in (0, 1)
    assert second == CHUNKS[num_done:], "the second run extracts what is missing, and only that"
    assert third == [], "the third run has nothing to do"


@pytest.mark.slow
def test_undisturbed_extraction_keeps_the_features(extracted):
    assert extracted_ids(extracted / "undisturbed.log") == CHUNKS
    cache = open_cache(extracted / "undisturbed")
    assert cache.load_all().dtype == torch.float16 and torch.equal(cache.load_all().float(), make_features(IDS))
    ids = [IDS[22], IDS[0], IDS[9], IDS[22]]
    from_disk = open_cache(extracted / "undisturbed").batch(ids)
    assert (
        from_disk.dtype == torch.float32
        and torch.equal(from_disk, make_features(ids))
        and torch.equal(from_disk, cache.batch(ids))
    )
    assert torch.equal(cache[IDS[5]], make_features([IDS[5]])[0])


@pytest.mark.slow
def test_opening_again_writes_nothing(extracted):
    paths = [path for path in (extracted / "undisturbed").rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in paths}
    open_cache(extracted / "undisturbed").extract(None, progress=False).load_all()
    assert {
        path: path.stat().st_mtime_ns for path in (extracted / "undisturbed").rglob("*") if path.is_file()
    } == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"key": {"backbone": "other"}}, {"ids": IDS[::-1]}, {"ids": IDS[:-1]}, {"shape": (5, 3)}, {"chunk_size": 5}],
)
def test_another_key_is_another_cache(extracted, changes):
    other = open_cache(extracted / "undisturbed", **changes)
    assert (
        other.folder != open_cache(extracted / "undisturbed").folder
        and not other.chunks_done.any()
        and other.missing_ids() == list(other.ids)
    )


def copy_cache(extracted: Path, folder: Path) -> FeatureCache:
    original = open_cache(extracted / "undisturbed")
    for path in original.folder.rglob("*"):
        if path.is_file():
            target = folder / original.folder.name / path.relative_to(original.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return open_cache(folder)


@pytest.mark.slow
@pytest.mark.parametrize("length", [0, 1, 9, -1])
def test_truncated_chunks_are_reported_and_extracted_again(extracted, tmp_path, length):
    cache = copy_cache(extracted, tmp_path)
    cache.chunk_path(3).write_bytes(cache.chunk_path(3).read_bytes()[:length])
    for read in (cache.load_all, lambda: cache[IDS[13]]):
        with pytest.raises(
            InputError, match="000003.safetensors: chunk cannot be read.*Delete this file and call extract"
        ):
            read()
    assert torch.equal(cache[IDS[0]], make_features([IDS[0]])[0])
    cache.chunk_path(3).unlink()
    healed = extract(tmp_path, tmp_path / "log")
    assert extracted_ids(tmp_path / "log") == [CHUNKS[3]] and torch.equal(healed.load_all().float(), make_features(IDS))


@pytest.mark.slow
def test_no_changed_bit_gives_other_features(extracted, tmp_path):
    cache = copy_cache(extracted, tmp_path)
    content = cache.chunk_path(1).read_bytes()
    for position in range(len(content)):
        cache.chunk_path(1).write_bytes(content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :])
        try:
            values = cache[IDS[5]]
        except InputError:
            continue
        assert torch.equal(values, make_features([IDS[5]])[0]), (
            f"byte {position}: another value was read without an error"
        )


@pytest.mark.slow
def test_missing_chunks_are_reported(extracted, tmp_path):
    cache = copy_cache(extracted, tmp_path)
    cache.chunk_path(1).unlink()
    assert cache.missing_ids() == CHUNKS[1] and cache.chunks_done.tolist() == [True, False, True, True, True, True]
    with pytest.raises(InputError, match="1 of 6 chunks are missing. Call extract first"):
        cache.load_all()
    with pytest.raises(InputError, match="000001.safetensors: chunk is missing"):
        cache.batch([IDS[0], IDS[5]])


@pytest.mark.slow
def test_files_of_other_content_are_reported(extracted, tmp_path):
    cache = copy_cache(extracted, tmp_path)
    key_file, chunk_file = cache.folder / "key.json", cache.chunk_path(2)
    for path, content, message in [
        (key_file, b"{}", "is not the key of this cache"),
        (key_file, b"{", "is not valid JSON"),
        (chunk_file, b"", "chunk cannot be read"),
        (chunk_file, key_file.read_bytes(), "chunk cannot be read"),
        (chunk_file, cache.chunk_path(5).read_bytes(), r"has shape \(3, 3, 5\); expected \(3, 5\) for each of 4"),
    ]:
        original = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            open_cache(tmp_path).load_all()
        path.write_bytes(original)
    assert json.loads(key_file.read_text())["weights"] == "here"


@pytest.mark.slow
def test_features_from_disk_equal_those_in_memory(extracted):
    "A cache above the memory limit gives a training the same features as a tensor."
    cache = open_cache(extracted / "undisturbed")
    disk, memory = cache.features(max_bytes=0), open_cache(extracted / "undisturbed").features()
    assert isinstance(disk, CachedFeatures) and isinstance(memory, torch.Tensor) and cache._loaded is None
    for seed in range(20):
        indices = torch.randint(len(IDS), (7,), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(disk[indices], memory[indices])
    assert torch.equal(torch.cat(list(disk.split(5))), memory) and [len(part) for part in disk.split(5)] == [
        len(part) for part in memory.split(5)
    ]
    with pytest.raises(InputError, match="6 of 6 chunks are missing"):
        open_cache(extracted / "undisturbed", key={"other": 1}).features(max_bytes=0)


def test_loading_ahead_changes_nothing(tmp_path):
    "Loading in a thread, as with a GPU, gives the same chunks."
    import cgsaliency.features.cache as module
    from cgsaliency.core.prefetch import prefetch

    loaded = []

    def load(ids):
        loaded.append(ids)
        return ids

    module.batches_on, original = lambda device, make, items: prefetch(make, items, 2), module.batches_on
    try:
        ahead = open_cache(tmp_path / "ahead").extract(make_features, progress=False, load_fn=load)
    finally:
        module.batches_on = original
    assert loaded == CHUNKS and torch.equal(ahead.load_all().float(), make_features(IDS))


@pytest.mark.parametrize("value", [65536.0, -1e5, float("inf"), float("nan")])
def test_values_beyond_half_precision_are_reported_and_not_stored(tmp_path, value):
    def extract_fn(ids):
        values = make_features(ids)
        if IDS[6] in ids:
            values[2, 1, 1] = value
        return values

    with pytest.raises(InputError, match="'image 6' hold values beyond ±65504 or not numbers"):
        open_cache(tmp_path).extract(extract_fn, progress=False)
    assert open_cache(tmp_path).chunks_done.tolist() == [True] + [False] * 5


def test_the_largest_half_precision_values_are_kept(tmp_path):
    cache = open_cache(tmp_path, ids=["a"], shape=(2,)).extract(
        lambda ids: torch.tensor([[65504.0, -65504.0]]), progress=False
    )
    assert cache["a"].tolist() == [65504, -65504]


def test_wrong_shapes_ids_and_sizes_are_reported(tmp_path):
    for call, message in [
        (
            lambda: open_cache(tmp_path).extract(lambda ids: torch.zeros(len(ids), 5, 3), progress=False),
            r"\(4, 5, 3\); expected \(4, 3, 5\)",
        ),
        (
            lambda: open_cache(tmp_path).extract(lambda ids: make_features(ids)[:2], progress=False),
            r"\(2, 3, 5\); expected \(4, 3, 5\)",
        ),
        (lambda: open_cache(tmp_path, ids=[]), "no image"),
        (lambda: open_cache(tmp_path, ids=["a", "a"]), "'a' is listed twice"),
        (lambda: open_cache(tmp_path, chunk_size=0), "chunk_size is 0"),
        (lambda: open_cache(tmp_path)["cat"], "has no image 'cat'"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
    assert not open_cache(tmp_path).chunks_done.any()


if __name__ == "__main__":
    kill_at_each_rename(Path(sys.argv[1]), extract, RENAMES, ("second", "third"))
