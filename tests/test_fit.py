"""A training that is killed, with SIGKILL and at every kind of moment, ends like one that was left alone; and what a training refuses."""
import json, os, random, signal, socket, subprocess, sys, time
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from dying import die, dying_at_rename, forked, killed, was_killed
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from cgsaliency.core.errors import BadInput
from cgsaliency.models.fit import Recipe, fit

RECIPE = Recipe(epochs=4, batch_size=8, learning_rate=0.02, schedule="one-cycle", clip=0.5, weight_decay=0.01, seed=3)
ITEMS, STEPS = 41, 5                             # 41 items: five batches of eight an epoch, one item left over
SCORES = [3.0, 1.0, 2.0, 1.0]                    # the second epoch is the best; the fourth only equals it
FILES = ("best.safetensors", "checkpoint.safetensors", "history.json")


class Tiny(nn.Module):
    "Dropout, normalisation with running statistics, a frozen layer: all that a resumed training could lose. No method is named forward."
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.inside, self.frozen = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3)), nn.Linear(12, 12)
        self.outside = nn.Linear(12, 1)
        self.frozen.requires_grad_(False)

    def predict(self, inputs): return self.outside(self.frozen(self.inside(inputs)))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.linspace(-1, 1, 64 * 6).mul(37).sin().view(64, 6)
    return inputs, inputs[:, :1].sin()


def train(folder: Path, before_loss=lambda: None, **changes) -> list[dict]:
    inputs, targets = data()

    def loss(model, indices):
        before_loss()
        return (model.predict(inputs[indices]) - targets[indices]).square().mean()

    def score(model):
        torch.rand(5)                            # a score may draw random numbers
        return SCORES[model.inside[1].num_batches_tracked // STEPS - 1]

    return fit(Tiny(), loss, ITEMS, folder, **{"recipe": RECIPE, "score": score, "progress": False, "checkpoint_every": 0.0, "keep_checkpoint": True} | changes)


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    "The weights in the folder's checkpoint."
    return {name.removeprefix("model."): value for name, value in load_file(folder / "checkpoint.safetensors").items() if name.startswith("model.")}


def dying_at_loss(folder: Path, step: int) -> None:
    left = iter(range(step))
    train(folder, lambda: next(left, None) is None and die())


def dying_at_write(folder: Path, which: int) -> None:
    "Dies with the n-th safetensors file half written."
    import cgsaliency.models.fit as module
    write, count = module.save_file, iter(range(10**6))

    def save_file(tensors, path, header):
        write(tensors, path, header)
        if next(count) == which:
            Path(path).write_bytes(Path(path).read_bytes()[:99])
            die()
    module.save_file = save_file
    train(folder)


def finished(folder: Path) -> bool:
    return len(json.loads((folder / "history.json").read_text())["epochs"]) == RECIPE.epochs


def two(works) -> None:
    "Two processes that train together, as a launcher starts them. Where one is killed, so is the other."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "CGSALIENCY_DEVICE": "cpu"}
    numbers = set()
    for rank, work in enumerate(works):
        def ranked():
            os.environ |= common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            work()
        numbers.add(forked(ranked))
    while numbers:
        number, status = os.wait()
        numbers.discard(number)
        if status:
            for other in numbers: os.kill(other, signal.SIGKILL)


def even(folder: Path, before_loss=lambda: None) -> None:
    "A training whose result does not depend on how a batch is split: no dropout, no statistics of the batch."
    torch.manual_seed(2)
    model, (inputs, targets) = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 1)), data()
    def loss(model, indices):
        before_loss()
        return (model[2](model[1](model[0](inputs[indices]))) - targets[indices]).square().mean()    # the model itself, not a wrapper
    fit(model, loss, ITEMS, folder, RECIPE, progress=False, checkpoint_every=0.0, keep_checkpoint=True)


def run_all(folder: Path) -> None:
    "Every training of these tests, each into a folder of its own."
    report = {}
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)]).step()      # the first step imports a thousand modules; here, and not in each child
    assert not killed(lambda: train(folder / "undisturbed"))
    assert not killed(lambda: train(folder / "without", checkpoint_every=1e9))
    for step in (0, 1, 4, 5, 7, 12, 19):
        assert killed(lambda: dying_at_loss(folder / f"loss-{step}", step))
    for which in (0, 4, 5, 6, 7, 8, 12, 13, 14, 15, 16):     # a checkpoint a step; after each fifth best, checkpoint and history
        for after in (False, True):
            assert killed(lambda: dying_at_rename(lambda: train(folder / f"rename-{which}-{after}"), which, after))
    for which in (0, 3, 5, 6, 7):
        assert killed(lambda: dying_at_write(folder / f"write-{which}", which))
    for begun in [folder / "loss-0", *sorted(folder.glob("*-*[0-9e]"))]:
        report.setdefault(begun.name, sorted(path.name for path in begun.glob("*")))
        assert not killed(lambda: train(begun))
    assert not killed(lambda: even(folder / "even/alone"))
    two([lambda: even(folder / "even/two")] * 2)
    for rank in (0, 1):
        left = iter(range(8))
        dying = lambda: even(folder / f"even/two-{rank}", lambda: next(left, None) is None and die())
        two([dying, lambda: even(folder / f"even/two-{rank}")][::1 if rank == 0 else -1])
        assert (folder / f"even/two-{rank}/checkpoint.safetensors").exists() and not finished(folder / f"even/two-{rank}")
        two([lambda: even(folder / f"even/two-{rank}")] * 2)
    kills, chance = 0, random.Random(0)
    while True:                                  # killed from outside, again and again, until one comes through
        number = forked(lambda: train(folder / "random", lambda: time.sleep(0.02)))
        time.sleep(0.05 + 0.02 * kills + 0.1 * chance.random())  # longer each time: also a slow machine gets there
        os.kill(number, signal.SIGKILL)
        if not was_killed(number): break
        kills += 1
    report["random"] = kills
    (folder / "report.json").write_text(json.dumps(report))


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    "Equal to the last bit is a promise of the CPU alone."
    monkeypatch.setenv("CGSALIENCY_DEVICE", "cpu")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    subprocess.run([sys.executable, __file__, folder], check=True, timeout=300, env=os.environ | {"CGSALIENCY_DEVICE": "cpu"})
    return folder


def test_killed_and_resumed_equals_undisturbed(trained):
    undisturbed = {name: (trained / "undisturbed" / name).read_bytes() for name in FILES}
    resumed = [path for path in trained.iterdir() if path.is_dir() and path.name not in ("undisturbed", "without", "even")]
    assert len(resumed) == 7 + 22 + 5 + 1
    for folder in resumed:
        for name, content in undisturbed.items():
            assert (folder / name).read_bytes() == content, f"{folder.name}/{name} is another"


def test_kills_were_kills(trained):
    report = json.loads((trained / "report.json").read_text())
    assert report["random"] > 2, "nothing was killed"
    assert report["loss-0"] == [] and "checkpoint.safetensors" in report["loss-1"]
    assert any(".part" in name for name in report["write-3"]), "nothing was left half written"
    assert "best.safetensors" in report["rename-5-True"] and "history.json" not in report["rename-6-True"]


def test_nothing_half_written_stays(trained):
    for folder in trained.iterdir():
        if folder.is_dir() and folder.name != "even": assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_checkpoints_change_nothing(trained):
    for name in FILES: assert (trained / "undisturbed" / name).read_bytes() == (trained / "without" / name).read_bytes()


def test_two_processes_train_as_one(trained):
    alone, together = (last_weights(trained / "even" / name) for name in ("alone", "two"))
    for name, value in alone.items(): torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-5)
    for resumed in ("two-0", "two-1"):
        assert finished(trained / "even" / resumed)
        for name in FILES: assert (trained / "even" / resumed / name).read_bytes() == (trained / "even/two" / name).read_bytes()
    with pytest.raises(BadInput, match="processes=2 instead of"): even(trained / "even/two")


def test_best_is_the_best_epoch(tmp_path):
    kept = []
    def keep(model):
        kept.append({name: value.clone() for name, value in model.state_dict().items()})
        return SCORES[len(kept) - 1]
    for better, best in (("lower", 1), ("higher", 0)):
        kept.clear()
        train(tmp_path / better, score=keep, better=better)
        file = load_file(tmp_path / better / "best.safetensors")
        assert all(torch.equal(value, kept[best][name]) for name, value in file.items())
        assert all(torch.equal(value, kept[3][name]) for name, value in last_weights(tmp_path / better).items())
        assert any(not torch.equal(value, kept[3][name]) for name, value in file.items())


def test_slow_twin_with_schedule_and_clipping(trained):
    model, (inputs, targets) = Tiny(), data()
    torch.manual_seed(RECIPE.seed)
    optimiser = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], weight_decay=0.01)
    clipped = 0
    for epoch in range(4):
        order = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(RECIPE.seed * 1_000_003 + epoch))
        for step in range(STEPS):
            indices = order[step * 8:step * 8 + 8]
            optimiser.param_groups[0]["lr"] = RECIPE.rate((epoch * STEPS + step) / 20)
            optimiser.zero_grad()
            (model.predict(inputs[indices]) - targets[indices]).square().mean().backward()
            norm = torch.stack([p.grad.norm() for p in model.parameters() if p.requires_grad]).norm()
            clipped += norm > 0.5
            for p in model.parameters():
                if p.requires_grad: p.grad *= min(1.0, 0.5 / (norm.item() + 1e-6))
            optimiser.step()
    assert 0 < clipped < 20, "clipping was never, or always, at work"
    for name, value in last_weights(trained / "undisturbed").items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_finished_does_nothing(trained):
    folder = trained / "undisturbed"
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    def never(): raise AssertionError("a finished training went on")
    history = train(folder, never)
    assert [epoch["score"] for epoch in history] == SCORES
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before


def test_finished_model_has_the_best_weights(trained):
    model = Tiny()
    fit(model, None, ITEMS, trained / "undisturbed", RECIPE, progress=False, keep_checkpoint=True)
    best = load_file(trained / "undisturbed/best.safetensors")
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items()) and not model.training


def test_no_pickle(trained):
    for path in (trained / "undisturbed").glob("*.safetensors"):
        with safe_open(path, "pt") as file: assert list(file.keys())
    with safe_open(trained / "undisturbed/checkpoint.safetensors", "pt") as file:
        assert file.get_tensor("random.cpu").dtype == torch.uint8 and json.loads(file.metadata()["progress"])["epoch"] == 4


@pytest.mark.parametrize("changes, says", [
    ({"recipe": Recipe(**vars(RECIPE) | {"seed": 4})}, "seed=3 instead of 4"),
    ({"recipe": Recipe(**vars(RECIPE) | {"clip": None})}, "clip=0.5 instead of None"),
    ({"settings": {"words": 9}}, "words=None instead of 9"),
    ({"better": "higher"}, "better='lower' instead of 'higher'"),
])
def test_other_settings_are_refused_and_touch_nothing(trained, changes, says):
    folder = trained / "undisturbed"
    before, states = {path: path.read_bytes() for path in folder.iterdir()}, torch.get_rng_state()
    model = Tiny()
    weights = [value.clone() for value in model.state_dict().values()]
    torch.set_rng_state(states)
    with pytest.raises(BadInput) as fault:
        fit(model, None, ITEMS, folder, **{"recipe": RECIPE, "progress": False} | changes)
    assert says in str(fault.value) and "checkpoint.safetensors" in str(fault.value) and "choose another folder" in str(fault.value)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before and torch.equal(torch.get_rng_state(), states)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.state_dict().values()))


@pytest.mark.parametrize("length", [0, 5, 40, 700, -1])
def test_truncated_checkpoint(trained, tmp_path, length):
    content = (trained / "undisturbed/checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(content[:length])
    with pytest.raises(BadInput, match="checkpoint.safetensors: is not a whole checkpoint.*Delete the folder"): train(tmp_path)


def test_checkpoint_of_something_else(trained, tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes((trained / "undisturbed/best.safetensors").read_bytes())
    with pytest.raises(BadInput, match="is not a whole checkpoint"): train(tmp_path)
    with pytest.raises(BadInput, match="not weights of this Linear"):
        fit(nn.Linear(6, 1), None, ITEMS, trained / "undisturbed", RECIPE, progress=False)


def test_truncated_best(trained, tmp_path):
    for path in (trained / "undisturbed").iterdir(): (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "best.safetensors").write_bytes((tmp_path / "best.safetensors").read_bytes()[:-3])
    with pytest.raises(BadInput, match="best.safetensors: is not a whole safetensors file"): train(tmp_path)


def test_not_finite_keeps_the_last_checkpoint(tmp_path):
    steps = iter(range(100))
    def loss(model, indices):
        factor = torch.nan if next(steps) == 7 else 1.0
        return (model.predict(data()[0][indices]) * factor).square().mean()
    with pytest.raises(BadInput, match="the loss is nan in epoch 1, step 2"):
        fit(Tiny(), loss, ITEMS, tmp_path, RECIPE, progress=False, checkpoint_every=0.0)
    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as file:
        progress = json.loads(file.metadata()["progress"])
        assert (progress["epoch"], progress["step"]) == (1, 2) and all(file.get_tensor(name).isfinite().all() for name in file.keys() if name.startswith("model."))


@pytest.mark.parametrize("checkpoint_every", [0.0, 1e9])
def test_a_finite_loss_with_an_endless_gradient_keeps_the_last_checkpoint(tmp_path, checkpoint_every):
    steps = iter(range(100))
    def loss(model, indices):
        value = model.predict(data()[0][indices]).square().mean()
        return value + (model.outside.bias * 0).abs().sqrt().sum() if next(steps) == 9 else value   # the gradient of √0
    with pytest.raises(BadInput, match="are not finite in epoch 1, step 5"):
        fit(Tiny(), loss, ITEMS, tmp_path, Recipe(epochs=3, batch_size=8), progress=False, checkpoint_every=checkpoint_every)
    for path in tmp_path.glob("*.safetensors"):
        assert all(value.isfinite().all() for value in load_file(path).values()), path.name
    assert (tmp_path / "best.safetensors").exists()


def test_empty_data_and_other_faults(tmp_path):
    for changes, says in [({"items": 0}, "there are no items"), ({"better": "up"}, "better is 'up'"), ({"settings": {"items": 7}}, "items is 7, but the training itself has 41")]:
        with pytest.raises(BadInput, match=says): fit(Tiny(), None, **{"items": ITEMS, "folder": tmp_path / "none", "progress": False} | changes)
    with pytest.raises(BadInput, match="the score is nan after epoch 0"): train(tmp_path / "nan", score=lambda model: torch.nan)
    assert not (tmp_path / "none").exists() and not (tmp_path / "nan/best.safetensors").exists()


def test_fewer_items_than_a_batch(tmp_path):
    def loss(model, indices):
        assert sorted(indices.tolist()) == [0, 1, 2]
        return model.predict(data()[0][indices]).square().mean()
    assert len(fit(Tiny(), loss, 3, tmp_path, Recipe(epochs=2), progress=False)) == 2


def test_a_finished_training_keeps_its_best_weights_and_its_history(tmp_path):
    history = train(tmp_path, keep_checkpoint=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "history.json"]
    def never(): raise AssertionError("a finished training went on")
    assert train(tmp_path, never, keep_checkpoint=False) == history
    with pytest.raises(BadInput, match="history.json: was trained with seed=3 instead of 4"):
        train(tmp_path, recipe=Recipe(**vars(RECIPE) | {"seed": 4}))


def test_given_weights_are_not_stored_and_stay(tmp_path):
    train(tmp_path, given=["frozen."])
    assert not [name for name in {**load_file(tmp_path / "best.safetensors"), **last_weights(tmp_path)} if "frozen" in name]
    train(tmp_path / "all")
    stored = load_file(tmp_path / "all/best.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in load_file(tmp_path / "best.safetensors").items())


def test_a_batch_is_made_on_the_cpu_and_moved_with_the_model(tmp_path):
    "The step that died on every GPU: numbers of items went to the device, and indexed tensors on the CPU there."
    inputs, targets = data()
    devices = []
    def batch(numbers, generator):
        devices.append(numbers.device.type)
        return inputs[numbers], targets[numbers]
    def loss(model, pair):
        devices.append(pair[0].device.type)
        return (model.predict(pair[0]) - pair[1]).square().mean()
    fit(Tiny(), loss, ITEMS, tmp_path, RECIPE, batch=batch, progress=False)
    assert set(devices) == {"cpu"}            # tests/test_fake_device.py does the same on a device that is not there


def test_losses_are_read_together_and_one_that_is_not_finite_is_found(tmp_path, monkeypatch):
    "What an accelerator does: several steps between two looks at the loss."
    import cgsaliency.models.fit as module

    class Late(module._Losses):
        def __init__(self, accelerator, now, folder, every): super().__init__(accelerator, now, folder, 3)

    expected = train(tmp_path / "each")
    monkeypatch.setattr(module, "_Losses", Late)
    assert train(tmp_path / "late") == expected
    for name in FILES: assert (tmp_path / "late" / name).read_bytes() == (tmp_path / "each" / name).read_bytes()
    steps = iter(range(100))
    def loss(model, indices):
        return (model.predict(data()[0][indices]) * (torch.nan if next(steps) == 6 else 1.0)).square().mean()
    with pytest.raises(BadInput, match="the loss is nan in epoch 1, step 1"): fit(Tiny(), loss, ITEMS, tmp_path / "nan", RECIPE, progress=False, checkpoint_every=1e9)
    assert all(value.isfinite().all() for value in load_file(tmp_path / "nan/checkpoint.safetensors").values())


if __name__ == "__main__": run_all(Path(sys.argv[1]))
