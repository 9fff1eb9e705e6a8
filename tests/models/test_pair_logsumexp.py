"""Sums over pairs of words and regions: large scores, and memory."""

import subprocess
import sys

import pytest
import torch

from cgsaliency.models.pair_logsumexp import exp_pair_scores, logsumexp_regions, logsumexp_words


@pytest.mark.parametrize("offset", (0.0, 60.0, 400.0))
def test_sums_over_pairs_are_exact_for_large_scores(offset):
    "Words whose scores are far from all others neither overflow nor vanish in single precision."
    generator = torch.Generator().manual_seed(1)
    a, c, word_weights, features = (
        torch.randn(*shape, generator=generator) for shape in ((2, 3, 30), (2, 3, 7), (30, 5), (2, 7, 5))
    )
    a[..., 3], word_weights[4] = a[..., 3] + offset, word_weights[4] * (1 + offset / 10)
    exp_scores, highest = exp_pair_scores(word_weights, features)
    pairs = a.double()[..., None] + c.double()[:, :, None] + (word_weights.double() @ features.double().mT)[:, None]
    for log_sums, expected in (
        (logsumexp_regions(a, c, exp_scores, highest), pairs.logsumexp(3)),
        (logsumexp_words(a, c, exp_scores, highest), pairs.logsumexp(2)),
    ):
        assert ((log_sums - expected) / expected.abs().clamp_min(1)).abs().max() < 1e-5


@pytest.mark.slow
def test_memory_grows_with_words_plus_regions():
    "A training step takes far less memory than all pairs of words and regions of all steps."
    code = """
import torch
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.models.areas_of_attention import AreasOfAttention, areas_loss
def peak_memory():
    with open('/proc/self/status') as status:
        return next(int(line.split()[1]) for line in status if line.startswith('VmHWM')) / 1e6
torch.manual_seed(0)
model = AreasOfAttention(Vocabulary.from_captions([[f'w{k}' for k in range(2000)]]), 32, word_dim=32, hidden_dim=32)
features, captions = torch.rand(4, 100, 32), torch.randint(1, 2000, (4, 5, 20))
areas_loss(model, (features[:, :2], captions[..., :2])).backward()
before = peak_memory()
areas_loss(model, (features, captions)).backward()
print(peak_memory() - before)
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads Linux's own count of memory")
    increase = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert increase < 0.25 * 4 * 5 * 20 * 2000 * 100 * 4 / 1e9, increase  # all pairs: 0.32 GB
