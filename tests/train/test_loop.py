"""The training loop: a training that is killed at any moment and resumed equals an undisturbed one; and its errors."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from cgsaliency.core.errors import InputError
from cgsaliency.train import loop
from cgsaliency.train.loop import TrainConfig
from process_helpers import fork, kill_at_rename, kill_self, killed_in_fork, script_environment, was_killed

CONFIG = TrainConfig(
    epochs=4, batch_size=8, learning_rate=0.02, schedule="one-cycle", max_grad_norm=0.5, weight_decay=0.01, seed=3
)
NUM_SAMPLES, STEPS_PER_EPOCH = 41, 5  # five batches of eight an epoch, one sample is left over
SCORES = [3.0, 1.0, 2.0, 1.0]  # the second epoch is the best; the fourth only equals it
FILES = ("best.safetensors", "checkpoint.safetensors", "history.json")


class TinyModel(nn.Module):
    """A model with dropout, a batch norm with running statistics and a frozen layer: a resumed training must restore
    all of them. No method is named forward."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers, self.frozen = (
            nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3)),
            nn.Linear(12, 12),
        )
        self.output = nn.Linear(12, 1)
        self.frozen.requires_grad_(False)

    def predict(self, inputs):
        return self.output(self.frozen(self.layers(inputs)))


def make_data() -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.linspace(-1, 1, 64 * 6).mul(37).sin().view(64, 6)
    return inputs, inputs[:, :1].sin()


def run_training(folder: Path, before_loss=lambda: None, **options) -> list[dict]:
    inputs, targets = make_data()

    def loss(model, indices):
        before_loss()
        return (model.predict(inputs[indices]) - targets[indices]).square().mean()

    def validate(model):
        torch.rand(5)  # validation may use random numbers
        return SCORES[model.layers[1].num_batches_tracked // STEPS_PER_EPOCH - 1]

    defaults = {
        "config": CONFIG,
        "validate": validate,
        "progress": False,
        "checkpoint_every": 0.0,
        "keep_checkpoint": True,
    }
    return loop.train(TinyModel(), loss, NUM_SAMPLES, folder, **defaults | options)


def checkpoint_weights(folder: Path) -> dict[str, torch.Tensor]:
    "Return the weights in the folder's checkpoint."
    return {
        name.removeprefix("model."): value
        for name, value in load_file(folder / "checkpoint.safetensors").items()
        if name.startswith("model.")
    }


def kill_after(num_calls: int) -> Callable:
    "Return a function that can be called this number of times; the next call kills the process."
    remaining = iter(range(num_calls))

    def count_or_kill():
        if next(remaining, None) is None:
            kill_self()

    return count_or_kill


def train_and_kill_at_step(folder: Path, step: int) -> None:
    "Train, and kill the process before the loss of this step."
    run_training(folder, kill_after(step))


def train_and_kill_at_write(folder: Path, index: int) -> None:
    "Train, and kill the process when the safetensors file with this index is half written."
    import cgsaliency.train.loop as module

    write, count = module.save_file, iter(range(10**6))

    def save_file(tensors, path, header):
        write(tensors, path, header)
        if next(count) == index:
            Path(path).write_bytes(Path(path).read_bytes()[:99])
            kill_self()

    module.save_file = save_file
    run_training(folder)


def is_finished(folder: Path) -> bool:
    return len(json.loads((folder / "history.json").read_text())["epochs"]) == CONFIG.epochs


def run_in_two_processes(works) -> None:
    "Run two processes that train together, as a launcher starts them. If one is killed, so is the other."
    with socket.socket() as unused_socket:
        unused_socket.bind(("127.0.0.1", 0))
        variables = {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(unused_socket.getsockname()[1]),
            "CGSALIENCY_DEVICE": "cpu",
        }
    process_ids = set()
    for rank, work in enumerate(works):

        def ranked():
            os.environ |= variables | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            work()

        process_ids.add(fork(ranked))
    while process_ids:
        process_id, status = os.wait()
        process_ids.discard(process_id)
        if status:
            for other in process_ids:
                os.kill(other, signal.SIGKILL)


def train_linear(folder: Path, before_loss=lambda: None) -> None:
    "Train a model without dropout and batch statistics: the result does not depend on how a batch is split."
    torch.manual_seed(2)
    model, (inputs, targets) = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 1)), make_data()

    def loss(model, indices):
        before_loss()
        # the model itself, not a wrapper
        return (model[2](model[1](model[0](inputs[indices]))) - targets[indices]).square().mean()

    loop.train(model, loss, NUM_SAMPLES, folder, CONFIG, progress=False, checkpoint_every=0.0, keep_checkpoint=True)


def run_all_trainings(folder: Path) -> None:
    "Run every training of these tests, each in its own folder."
    report = {}
    torch.set_num_threads(1)
    # the first step imports many modules: once here, and not in each child
    torch.optim.Adam([torch.zeros(1, requires_grad=True)]).step()
    assert not killed_in_fork(lambda: run_training(folder / "undisturbed"))
    assert not killed_in_fork(lambda: run_training(folder / "without", checkpoint_every=1e9))
    for step in (0, 1, 4, 5, 7, 12, 19):
        assert killed_in_fork(lambda: train_and_kill_at_step(folder / f"loss-{step}", step))
    # there is a checkpoint for each step; after each epoch best weights, checkpoint and history
    for index in (0, 4, 5, 6, 7, 8, 12, 13, 14, 15, 16):
        for after in (False, True):
            assert killed_in_fork(
                lambda: kill_at_rename(lambda: run_training(folder / f"rename-{index}-{after}"), index, after)
            )
    for index in (0, 3, 5, 6, 7):
        assert killed_in_fork(lambda: train_and_kill_at_write(folder / f"write-{index}", index))
    for interrupted in [folder / "loss-0", *sorted(folder.glob("*-*[0-9e]"))]:
        report.setdefault(interrupted.name, sorted(path.name for path in interrupted.glob("*")))
        assert not killed_in_fork(lambda: run_training(interrupted))
    assert not killed_in_fork(lambda: train_linear(folder / "even/alone"))
    run_in_two_processes([lambda: train_linear(folder / "even/two")] * 2)
    for rank in (0, 1):
        works = [partial(train_linear, folder / f"even/two-{rank}")] * 2
        works[rank] = partial(works[rank], kill_after(8))
        run_in_two_processes(works)
        assert (folder / f"even/two-{rank}/checkpoint.safetensors").exists() and not is_finished(
            folder / f"even/two-{rank}"
        )
        run_in_two_processes([lambda: train_linear(folder / f"even/two-{rank}")] * 2)
    kills, rng = 0, random.Random(0)
    while True:  # killed from outside until a run comes to its end
        process_id = fork(lambda: run_training(folder / "random", lambda: time.sleep(0.02)))
        time.sleep(
            0.05 + 0.02 * kills + 0.1 * rng.random()
        )  # longer each time, so that slow machines come to the end, too
        os.kill(process_id, signal.SIGKILL)
        if not was_killed(process_id):
            break
        kills += 1
    report["random"] = kills
    (folder / "report.json").write_text(json.dumps(report))


@pytest.fixture(autouse=True)
def use_cpu(monkeypatch):
    "Results are equal to the last bit on the CPU only."
    monkeypatch.setenv("CGSALIENCY_DEVICE", "cpu")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    subprocess.run(
        [sys.executable, __file__, folder], check=True, timeout=300, env=script_environment(CGSALIENCY_DEVICE="cpu")
    )
    return folder


@pytest.mark.slow
def test_killed_and_resumed_equals_undisturbed(runs_folder):
    undisturbed = {name: (runs_folder / "undisturbed" / name).read_bytes() for name in FILES}
    resumed = [
        path for path in runs_folder.iterdir() if path.is_dir() and path.name not in ("undisturbed", "without", "even")
    ]
    assert len(resumed) == 7 + 22 + 5 + 1
    for folder in resumed:
        for name, content in undisturbed.items():
            assert (folder / name).read_bytes() == content, f"{folder.name}/{name} is another"


@pytest.mark.slow
def test_kills_left_the_expected_files(runs_folder):
    report = json.loads((runs_folder / "report.json").read_text())
    assert report["random"] > 2, "nothing was killed"
    assert report["loss-0"] == [] and "checkpoint.safetensors" in report["loss-1"]
    assert any(".part" in name for name in report["write-3"]), "nothing was left half written"
    assert "best.safetensors" in report["rename-5-True"] and "history.json" not in report["rename-6-True"]


@pytest.mark.slow
def test_no_partial_files_stay(runs_folder):
    for folder in runs_folder.iterdir():
        if folder.is_dir() and folder.name != "even":
            assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


@pytest.mark.slow
def test_checkpoints_do_not_change_the_result(runs_folder):
    for name in FILES:
        assert (runs_folder / "undisturbed" / name).read_bytes() == (runs_folder / "without" / name).read_bytes()


@pytest.mark.slow
def test_two_processes_train_as_one(runs_folder):
    single, double = (checkpoint_weights(runs_folder / "even" / name) for name in ("alone", "two"))
    for name, value in single.items():
        torch.testing.assert_close(double[name], value, rtol=1e-4, atol=1e-5)
    for resumed in ("two-0", "two-1"):
        assert is_finished(runs_folder / "even" / resumed)
        for name in FILES:
            assert (runs_folder / "even" / resumed / name).read_bytes() == (
                runs_folder / "even/two" / name
            ).read_bytes()
    with pytest.raises(InputError, match="num_processes=2 instead of"):
        train_linear(runs_folder / "even/two")


def test_best_weights_are_those_of_the_best_epoch(tmp_path):
    states = []

    def record_state(model):
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return SCORES[len(states) - 1]

    for mode, best in (("min", 1), ("max", 0)):
        states.clear()
        run_training(tmp_path / mode, validate=record_state, mode=mode)
        file = load_file(tmp_path / mode / "best.safetensors")
        assert all(torch.equal(value, states[best][name]) for name, value in file.items())
        assert all(torch.equal(value, states[3][name]) for name, value in checkpoint_weights(tmp_path / mode).items())
        assert any(not torch.equal(value, states[3][name]) for name, value in file.items())


@pytest.mark.slow
def test_training_equals_a_plain_loop_with_schedule_and_clipping(runs_folder):
    model, (inputs, targets) = TinyModel(), make_data()
    torch.manual_seed(CONFIG.seed)
    optimizer = torch.optim.Adam(
        [parameter for parameter in model.parameters() if parameter.requires_grad], weight_decay=0.01
    )
    clipped = 0
    for epoch in range(4):
        order = torch.randperm(NUM_SAMPLES, generator=torch.Generator().manual_seed(CONFIG.seed * 1_000_003 + epoch))
        for step in range(STEPS_PER_EPOCH):
            indices = order[step * 8 : step * 8 + 8]
            optimizer.param_groups[0]["lr"] = CONFIG.learning_rate_at((epoch * STEPS_PER_EPOCH + step) / 20)
            optimizer.zero_grad()
            (model.predict(inputs[indices]) - targets[indices]).square().mean().backward()
            norm = torch.stack([p.grad.norm() for p in model.parameters() if p.requires_grad]).norm()
            clipped += norm > 0.5
            for p in model.parameters():
                if p.requires_grad:
                    p.grad *= min(1.0, 0.5 / (norm.item() + 1e-6))
            optimizer.step()
    assert 0 < clipped < 20, "clipping was never, or always, at work"
    for name, value in checkpoint_weights(runs_folder / "undisturbed").items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_an_interrupted_training_with_multipliers_is_resumed(tmp_path):
    "The moments of the optimizer are stored in the order of the groups, which differs from that of the weights."
    multipliers, count = {"output.": 10.0, "layers.0.bias": 0.1}, 0

    def interrupt():
        nonlocal count
        count += 1
        if count == 8:
            raise KeyboardInterrupt

    undisturbed = run_training(tmp_path / "undisturbed", multipliers=multipliers)
    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path / "resumed", interrupt, multipliers=multipliers)
    assert run_training(tmp_path / "resumed", multipliers=multipliers) == undisturbed
    resumed, expected = (checkpoint_weights(tmp_path / name) for name in ("resumed", "undisturbed"))
    assert all(torch.equal(value, expected[name]) for name, value in resumed.items())
    run_training(tmp_path / "plain")
    plain = checkpoint_weights(tmp_path / "plain")
    assert not torch.equal(plain["output.weight"], expected["output.weight"])


def test_multipliers_of_unknown_or_frozen_weights_are_refused(tmp_path):
    for prefix in ("head.", "frozen."):
        with pytest.raises(InputError, match=f"no trained weight begins with '{prefix}'"):
            run_training(tmp_path, multipliers={prefix: 2.0})


def test_gradients_of_an_earlier_training_do_not_count(tmp_path, monkeypatch):
    "Weights that were trained before and are frozen now may still have gradients; clipping must not see them."
    run_training(tmp_path / "expected")
    make_model = TinyModel

    def make_trained_model():
        model = make_model()
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 100.0)
        return model

    monkeypatch.setitem(run_training.__globals__, "TinyModel", make_trained_model)
    run_training(tmp_path / "trained before")
    weights, expected = (checkpoint_weights(tmp_path / name) for name in ("trained before", "expected"))
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


@pytest.mark.slow
def test_a_finished_training_does_nothing(runs_folder):
    folder = runs_folder / "undisturbed"
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}

    def never():
        raise AssertionError("a finished training went on")

    history = run_training(folder, never)
    assert [epoch["score"] for epoch in history] == SCORES
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before


@pytest.mark.slow
def test_a_finished_training_loads_the_best_weights(runs_folder):
    model = TinyModel()
    loop.train(model, None, NUM_SAMPLES, runs_folder / "undisturbed", CONFIG, progress=False, keep_checkpoint=True)
    best = load_file(runs_folder / "undisturbed/best.safetensors")
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items()) and not model.training


@pytest.mark.slow
def test_checkpoints_are_safetensors_files(runs_folder):
    for path in (runs_folder / "undisturbed").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert list(file.keys())
    with safe_open(runs_folder / "undisturbed/checkpoint.safetensors", "pt") as file:
        assert (
            file.get_tensor("random.cpu").dtype == torch.uint8 and json.loads(file.metadata()["progress"])["epoch"] == 4
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"config": TrainConfig(**vars(CONFIG) | {"seed": 4})}, "seed=3 instead of 4"),
        ({"config": TrainConfig(**vars(CONFIG) | {"max_grad_norm": None})}, "max_grad_norm=0.5 instead of None"),
        ({"settings": {"words": 9}}, "words=None instead of 9"),
        ({"mode": "max"}, "mode='min' instead of 'max'"),
    ],
)
def test_other_settings_are_rejected_and_change_nothing(runs_folder, changes, message):
    folder = runs_folder / "undisturbed"
    contents, rng_state = {path: path.read_bytes() for path in folder.iterdir()}, torch.get_rng_state()
    model = TinyModel()
    weights = [value.clone() for value in model.state_dict().values()]
    torch.set_rng_state(rng_state)
    with pytest.raises(InputError) as error:
        loop.train(model, None, NUM_SAMPLES, folder, **{"config": CONFIG, "progress": False} | changes)
    assert (
        message in str(error.value)
        and "checkpoint.safetensors" in str(error.value)
        and "choose another folder" in str(error.value)
    )
    assert {path: path.read_bytes() for path in folder.iterdir()} == contents and torch.equal(
        torch.get_rng_state(), rng_state
    )
    assert all(torch.equal(a, b) for a, b in zip(weights, model.state_dict().values()))


@pytest.mark.slow
@pytest.mark.parametrize("length", [0, 5, 40, 700, -1])
def test_truncated_checkpoints_are_reported(runs_folder, tmp_path, length):
    content = (runs_folder / "undisturbed/checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(content[:length])
    with pytest.raises(InputError, match="checkpoint.safetensors: is not a complete checkpoint.*Delete the folder"):
        run_training(tmp_path)


@pytest.mark.slow
def test_checkpoints_of_another_model_are_reported(runs_folder, tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes((runs_folder / "undisturbed/best.safetensors").read_bytes())
    with pytest.raises(InputError, match="is not a complete checkpoint"):
        run_training(tmp_path)
    with pytest.raises(InputError, match="not weights of this Linear"):
        loop.train(nn.Linear(6, 1), None, NUM_SAMPLES, runs_folder / "undisturbed", CONFIG, progress=False)


@pytest.mark.slow
def test_truncated_best_weights_are_reported(runs_folder, tmp_path):
    for path in (runs_folder / "undisturbed").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "best.safetensors").write_bytes((tmp_path / "best.safetensors").read_bytes()[:-3])
    with pytest.raises(InputError, match="best.safetensors: is not a complete safetensors file"):
        run_training(tmp_path)


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(tmp_path):
    steps = iter(range(100))

    def loss(model, indices):
        factor = torch.nan if next(steps) == 7 else 1.0
        return (model.predict(make_data()[0][indices]) * factor).square().mean()

    with pytest.raises(InputError, match="the loss is nan in epoch 1, step 2"):
        loop.train(TinyModel(), loss, NUM_SAMPLES, tmp_path, CONFIG, progress=False, checkpoint_every=0.0)
    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as file:
        progress = json.loads(file.metadata()["progress"])
        assert (progress["epoch"], progress["step"]) == (1, 2) and all(
            file.get_tensor(name).isfinite().all() for name in file.keys() if name.startswith("model.")
        )


@pytest.mark.parametrize("checkpoint_every", [0.0, 1e9])
def test_a_gradient_that_is_not_finite_keeps_the_last_checkpoint(tmp_path, checkpoint_every):
    steps = iter(range(100))

    def loss(model, indices):
        value = model.predict(make_data()[0][indices]).square().mean()
        return (
            value + (model.output.bias * 0).abs().sqrt().sum() if next(steps) == 9 else value
        )  # the gradient of √0 is not finite

    with pytest.raises(InputError, match="are not finite in epoch 1, step 5"):
        loop.train(
            TinyModel(),
            loss,
            NUM_SAMPLES,
            tmp_path,
            TrainConfig(epochs=3, batch_size=8),
            progress=False,
            checkpoint_every=checkpoint_every,
        )
    for path in tmp_path.glob("*.safetensors"):
        assert all(value.isfinite().all() for value in load_file(path).values()), path.name
    assert (tmp_path / "best.safetensors").exists()


def test_wrong_arguments_are_rejected(tmp_path):
    for arguments, message in [
        ({"num_samples": 0}, "there are no samples"),
        ({"mode": "up"}, "mode is 'up'"),
        ({"settings": {"num_samples": 7}}, "num_samples is 7, but the training itself has 41"),
    ]:
        with pytest.raises(InputError, match=message):
            loop.train(
                TinyModel(),
                None,
                **{"num_samples": NUM_SAMPLES, "folder": tmp_path / "none", "progress": False} | arguments,
            )
    with pytest.raises(InputError, match="the score is nan after epoch 0"):
        run_training(tmp_path / "nan", validate=lambda model: torch.nan)
    assert not (tmp_path / "none").exists() and not (tmp_path / "nan/best.safetensors").exists()


def test_all_numbers_of_a_validation_are_checked(tmp_path):
    "Each must be finite, and none may replace the epoch or the training loss in the history."
    history = run_training(tmp_path / "right", validate=lambda model: {"score": 1, "val_loss": 2.0})
    assert [(epoch["score"], epoch["val_loss"]) for epoch in history] == [(1.0, 2.0)] * len(history)
    with pytest.raises(InputError, match="the val_loss is inf after epoch 0"):
        run_training(tmp_path / "infinite", validate=lambda model: {"score": 1.0, "val_loss": torch.inf})
    for name in ("epoch", "loss"):
        with pytest.raises(InputError, match=f"the name '{name}' of the history"):
            run_training(tmp_path / name, validate=lambda model, name=name: {"score": 1.0, name: 2.0})


def test_fewer_samples_than_a_batch(tmp_path):
    def loss(model, indices):
        assert sorted(indices.tolist()) == [0, 1, 2]
        return model.predict(make_data()[0][indices]).square().mean()

    assert len(loop.train(TinyModel(), loss, 3, tmp_path, TrainConfig(epochs=2), progress=False)) == 2


def test_a_finished_training_keeps_best_weights_and_history_only(tmp_path):
    history = run_training(tmp_path, keep_checkpoint=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "history.json"]

    def never():
        raise AssertionError("a finished training went on")

    assert run_training(tmp_path, never, keep_checkpoint=False) == history
    with pytest.raises(InputError, match="history.json: was trained with seed=3 instead of 4"):
        run_training(tmp_path, config=TrainConfig(**vars(CONFIG) | {"seed": 4}))


def test_frozen_weights_are_not_stored_and_do_not_change(tmp_path):
    run_training(tmp_path, frozen_prefixes=["frozen."])
    assert not [
        name
        for name in {**load_file(tmp_path / "best.safetensors"), **checkpoint_weights(tmp_path)}
        if "frozen" in name
    ]
    run_training(tmp_path / "all")
    stored = load_file(tmp_path / "all/best.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in load_file(tmp_path / "best.safetensors").items())


def test_batches_are_made_on_the_cpu_and_moved_to_the_model(tmp_path):
    "`make_batch` gets indices on the CPU, where the data is; the batch is moved to the device of the model."
    inputs, targets = make_data()
    devices = []

    def make_batch(indices, generator):
        devices.append(indices.device.type)
        return inputs[indices], targets[indices]

    def loss(model, batch):
        devices.append(batch[0].device.type)
        return (model.predict(batch[0]) - batch[1]).square().mean()

    loop.train(TinyModel(), loss, NUM_SAMPLES, tmp_path, CONFIG, make_batch=make_batch, progress=False)
    assert set(devices) == {"cpu"}  # tests/project/test_device_placement.py does the same on a simulated device


def test_losses_that_are_read_together_give_the_same_training(tmp_path, monkeypatch):
    "With a GPU, losses are read once in several steps."
    import cgsaliency.train.loop as module

    class ReadingEveryThreeSteps(module._LossAccumulator):
        def __init__(self, accelerator, state, folder, interval):
            super().__init__(accelerator, state, folder, 3)

    expected = run_training(tmp_path / "each")
    monkeypatch.setattr(module, "_LossAccumulator", ReadingEveryThreeSteps)
    assert run_training(tmp_path / "late") == expected
    for name in FILES:
        assert (tmp_path / "late" / name).read_bytes() == (tmp_path / "each" / name).read_bytes()
    steps = iter(range(100))

    def loss(model, indices):
        return (model.predict(make_data()[0][indices]) * (torch.nan if next(steps) == 6 else 1.0)).square().mean()

    with pytest.raises(InputError, match="the loss is nan in epoch 1, step 1"):
        loop.train(TinyModel(), loss, NUM_SAMPLES, tmp_path / "nan", CONFIG, progress=False, checkpoint_every=1e9)
    assert all(value.isfinite().all() for value in load_file(tmp_path / "nan/checkpoint.safetensors").values())


if __name__ == "__main__":
    run_all_trainings(Path(sys.argv[1]))
