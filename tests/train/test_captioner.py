"""Training of captioners: initial weights for standardized descriptors."""

import pytest
import torch

from cgsaliency.core.errors import InputError
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.models.mean_pool import MeanPoolCaptioner
from cgsaliency.models.s2vt import S2VT
from cgsaliency.models.soft_attention import SoftAttention
from cgsaliency.train.captioner import standardize_descriptors, train_captioner
from cgsaliency.train.loop import TrainConfig

VOCABULARY = Vocabulary.from_captions(["a dog runs".split(), "a cat sits".split()])
D = 6
TOKEN_IDS = torch.tensor([[1, 2, 3], [1, 3, 0], [4, 1, 2]])
CAPTIONERS = {
    "s2vt": (S2VT, {"embed_dim": 5, "word_dim": 4, "hidden_dim": 7}),
    "soft attention": (SoftAttention, {"word_dim": 4, "hidden_dim": 7, "attention_dim": 3, "selector": False}),
}


def make_captioner(name):
    torch.manual_seed(0)
    model_class, sizes = CAPTIONERS[name]
    return model_class(VOCABULARY, feature_dim=D, **sizes).eval()


def random_descriptors():
    "Return descriptors of three images whose units have large means and different deviations."
    return 20 + torch.randn(3, 4, D, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.2, 3, D)


@pytest.mark.parametrize("name", CAPTIONERS)
def test_rescaled_weights_read_standardized_descriptors(name):
    features = random_descriptors()
    mean, std = features.mean((0, 1)), features.std((0, 1), correction=0)
    rescaled, plain = make_captioner(name), make_captioner(name)
    standardize_descriptors(rescaled, features, batch_size=2)
    with torch.no_grad():
        actual = rescaled.log_probs(features, TOKEN_IDS)
        expected = plain.log_probs((features - mean) / std, TOKEN_IDS)
        before = plain.log_probs(features, TOKEN_IDS)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert (actual - before).abs().max() > 1e-2


def test_captioner_that_names_no_layers_is_refused():
    captioner = MeanPoolCaptioner(VOCABULARY, feature_dim=D, word_dim=4, hidden_dim=7)
    with pytest.raises(InputError, match="MeanPoolCaptioner does not name the layers that read descriptors"):
        standardize_descriptors(captioner, random_descriptors())


def test_unit_that_does_not_vary_keeps_finite_small_weights():
    features = random_descriptors()
    features[..., 2] = 1.5
    rescaled, plain = make_captioner("s2vt"), make_captioner("s2vt")
    standardize_descriptors(rescaled, features)
    largest = features.std((0, 1), correction=0).max()
    ratio = plain.embed_descriptor.weight[:, 2] / rescaled.embed_descriptor.weight[:, 2]
    torch.testing.assert_close(ratio, largest.expand_as(ratio))


def test_training_with_other_initial_weights_is_not_resumed(tmp_path):
    features, captions = random_descriptors(), torch.tensor([[[1, 2, 0]], [[1, 3, 0]], [[4, 1, 0]]])
    _, sizes = CAPTIONERS["s2vt"]
    arguments = (S2VT, tmp_path, VOCABULARY, {"feature_dim": D, **sizes}, features, captions, TrainConfig(epochs=1))
    train_captioner(*arguments, progress=False, standardize=True)
    with pytest.raises(InputError, match="standardize"):
        train_captioner(*arguments, progress=False)
