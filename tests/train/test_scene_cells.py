"""Labels and weights of the cells of scenes, and the training of a network on them."""

import pytest
import torch
from PIL import Image

from cgsaliency.core.geometry import CellGrid
from cgsaliency.core.records import Caption, Phrase, Sample
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.features.backbone import BACKBONES
from cgsaliency.features.region_encoder import RegionEncoder
from cgsaliency.features.weights import read_weights
from cgsaliency.train.loop import TrainConfig
from cgsaliency.train.scene_cells import (
    CellClassifier,
    ObjectWindows,
    SceneCells,
    cell_loss,
    train_cell_classifier,
)

GRID = CellGrid.uniform(4, 4, 112, 112)  # the centers are at 14, 42, 70 and 98 pixels
TOKENS = ("red", "ball", "near", "white", "dog")
BALL, DOG = (0.0, 0.0, 112.0, 56.0), (112.0, 0.0, 224.0, 112.0)  # in images of 224 × 224


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    phrases = Phrase(0, 2, "1", ("other",), (BALL,)), Phrase(3, 5, "2", ("animals",), (DOG,))
    samples = []
    for name, named in (("both", phrases), ("nothing", ())):
        Image.effect_noise((224, 224), 60).convert("RGB").save(folder / f"{name}.png")
        samples.append(Sample(name, folder / f"{name}.png", 224, 224, (Caption(TOKENS, named),)))
    return samples


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.from_captions([TOKENS])


def make_scenes(samples, vocabulary, max_shift=0):
    return SceneCells(samples, vocabulary, GRID, (0.5,) * 3, (0.5,) * 3, max_shift)


def words_of(labels, vocabulary):
    return {vocabulary.words[token_id] for token_id in labels.nonzero()[:, 0].tolist()}


def test_a_cell_has_the_words_of_the_objects_over_its_center(samples, vocabulary):
    images, cell_labels, _, image_labels = make_scenes(samples, vocabulary).batch(torch.arange(2))
    assert images.shape == (2, 3, 112, 112) and cell_labels.shape == (2, 16, len(vocabulary))
    for cell in range(16):
        row, column = divmod(cell, 4)
        expected = {"red", "ball"} if row == 0 and column < 2 else {"white", "dog"} if row < 2 and column > 1 else set()
        assert words_of(cell_labels[0, cell], vocabulary) == expected, (row, column)
    assert not cell_labels[1].any() and words_of(image_labels[1], vocabulary) == set(TOKENS)


def test_half_of_the_weight_is_on_the_middles_of_objects(samples, vocabulary):
    weights = make_scenes(samples, vocabulary).batch(torch.arange(2))[2]
    assert torch.allclose(weights.sum(1), torch.ones(2)) and torch.allclose(weights[1], torch.full((16,), 1 / 16))
    # the middle of the ball is at (28, 14), between two cells, and that of the dog at (84, 28) between four
    on_objects = (weights[0] > 0.5 / 16 + 1e-6).nonzero()[:, 0].tolist()
    assert len(on_objects) == 2 and on_objects[0] in (0, 1) and on_objects[1] in (2, 3, 6, 7)
    assert torch.allclose(weights[0, on_objects], torch.tensor(0.25 + 0.5 / 16))


def test_labels_move_with_the_image(samples, vocabulary):
    scenes = make_scenes(samples, vocabulary, max_shift=28)
    unshifted = make_scenes(samples, vocabulary).batch(torch.arange(1))
    shifts = set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        dy, dx = (28 - torch.randint(0, 57, (1, 2), generator=generator)[0]).tolist()
        images, labels, *_ = scenes.batch(torch.arange(1), torch.Generator().manual_seed(seed))
        shifts.add((dy, dx))
        y, x = max(dy, 0), max(dx, 0)
        height, width = 112 - abs(dy), 112 - abs(dx)
        part = unshifted[0][0, :, max(-dy, 0) :, max(-dx, 0) :][:, :height, :width]
        assert torch.equal(images[0, :, y : y + height, x : x + width], part)
        # the left half of the upper quarter is the ball
        for cell, (center_x, center_y) in enumerate(GRID.centers.flatten(0, 1).tolist()):
            is_ball = dx <= center_x <= dx + 56 and dy <= center_y <= dy + 28
            assert ("ball" in words_of(labels[0, cell], vocabulary)) == is_ball
    assert len(shifts) > 10


def test_weights_of_the_loss_choose_the_cells(samples, vocabulary):
    torch.manual_seed(0)
    spec = BACKBONES["toyvgg"]
    network = spec.build(channels=16, hidden_dim=8, num_classes=len(vocabulary))
    model = CellClassifier(network, spec.split, CellGrid.uniform(14, 14, 112, 112), len(vocabulary)).eval()
    images = torch.randn(2, 3, 112, 112)
    labels, image_labels = torch.zeros(2, 196, len(vocabulary)), torch.zeros(2, len(vocabulary))
    weights = torch.zeros(2, 196)
    weights[:, 7] = 1.0
    loss = cell_loss(model, (images, labels, weights, image_labels))
    changed = labels.clone()
    changed[:, 8] = 1.0
    assert torch.equal(cell_loss(model, (images, changed, weights, image_labels)), loss)
    changed[:, 7] = 1.0
    assert not torch.equal(cell_loss(model, (images, changed, weights, image_labels)), loss)


def test_the_trained_network_is_that_of_a_region_encoder(samples, vocabulary, tmp_path):
    spec, sizes = BACKBONES["toyvgg"], {"channels": 16, "hidden_dim": 8, "num_classes": len(vocabulary)}
    encoder = RegionEncoder("toyvgg", "grid", **sizes)
    scenes = SceneCells(samples, vocabulary, encoder.grid, spec.mean, spec.std)
    config = TrainConfig(epochs=3, batch_size=2, learning_rate=0.003)

    def train(folder):
        return train_cell_classifier(lambda: spec.build(**sizes), spec.split, scenes, folder, config, {})

    losses = train(tmp_path / "first")
    assert len(losses) == 3 and losses == train(tmp_path / "first") == train(tmp_path / "second")
    weights = read_weights(tmp_path / "first/best.safetensors")
    assert encoder.load(weights) is encoder and not any("cell_layer" in name for name in weights)
    for name, value in read_weights(tmp_path / "second/best.safetensors").items():
        assert torch.equal(value, weights[name])


def test_a_window_has_the_words_of_the_objects_in_it(samples, vocabulary):
    windows = ObjectWindows(make_scenes(samples, vocabulary), margin=0.0, max_offset=0.0)
    assert windows.objects == [(0, 0), (0, 1)]  # of the image without objects there is none
    # the ball has 56 × 28 pixels of the input: its window of 56 × 56 ends where the dog begins
    _, labels, weights = windows._window(0, 0, 0.0, 0.5, 0.5)
    assert words_of(labels, vocabulary) == {"red", "ball"} and weights.all()
    # a window of the complete width also shows the dog
    _, labels, _ = ObjectWindows(windows.scenes, margin=1.0, max_offset=0.0)._window(0, 0, 1.0, 0.5, 0.5)
    assert words_of(labels, vocabulary) == {"red", "ball", "white", "dog"}


def test_words_of_a_part_of_an_object_do_not_count(samples, vocabulary):
    windows = ObjectWindows(make_scenes(samples, vocabulary), margin=1.0, max_offset=0.0)
    # the window around the ball is 67 pixels wide: it shows 11 of the 56 columns of the dog
    _, labels, weights = windows._window(0, 0, 0.2, 0.5, 0.5)
    assert words_of(labels, vocabulary) == {"red", "ball"}
    assert words_of(1 - weights, vocabulary) == {"white", "dog"}


def test_a_window_is_the_enlarged_part_of_the_image(samples, vocabulary):
    scenes = make_scenes(samples, vocabulary, max_shift=8)
    image, _, _ = ObjectWindows(scenes, margin=0.0, max_offset=0.0)._window(0, 1, 0.0, 0.5, 0.5)
    plain = make_scenes(samples, vocabulary).batch(torch.arange(1))[0][0]
    assert image.shape == (3, 112, 112)
    # the dog's box: x from 56 to 112, y from 0 to 56
    enlarged = torch.nn.functional.interpolate(plain[None, :, :56, 56:], (112, 112), mode="bilinear")[0]
    assert torch.allclose(image, enlarged, atol=1e-5)


def test_the_loss_has_a_part_for_windows(samples, vocabulary):
    scenes = make_scenes(samples, vocabulary)
    network = BACKBONES["toyvgg"].build(channels=8, hidden_dim=8, num_classes=len(vocabulary), dropout=0.0)
    grid = RegionEncoder("toyvgg", "grid", channels=8, hidden_dim=8, num_classes=len(vocabulary)).grid
    scenes = SceneCells(samples, vocabulary, grid, (0.5,) * 3, (0.5,) * 3, 0)
    model = CellClassifier(network, BACKBONES["toyvgg"].split, grid, len(vocabulary))
    batch = scenes.batch(torch.arange(2))
    windows = ObjectWindows(scenes).batch(3, torch.Generator().manual_seed(0))
    logits = model(windows[0])[1]
    window_loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, windows[1], windows[2])
    assert torch.allclose(cell_loss(model, (*batch, *windows)), (2 * cell_loss(model, batch) + window_loss) / 3)
