"""Intervals over seeds and images: a slow reference of the mean squares, and their coverage in simulations."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from cgsaliency.core.errors import InputError
from cgsaliency.evaluate.multi_seed import seed_difference, seed_interval, spread_difference

NUM_IMAGES = 40


def simulate(rng, image_effects, seed_std, residual_std, num_seeds):
    "Return rows of one model: the effects of images, of seeds, and of the two together; the true mean is zero."
    seed_effects = rng.normal(0, seed_std, num_seeds)
    scores = image_effects + seed_effects[:, None] + rng.normal(0, residual_std, (num_seeds, len(image_effects)))
    seeds, images = np.indices(scores.shape).reshape(2, -1)
    return pd.DataFrame({"seed": seeds, "record": images.astype(str), "score": scores.ravel()})


def mean_squares(rows):
    "Return V_S, V_I and V_e with loops over all rows."
    seeds, images = sorted(rows.seed.unique()), sorted(rows.record.unique())
    scores = {(row.seed, row.record): row.score for row in rows.itertuples()}
    mean = sum(scores.values()) / len(scores)
    seed_means = {seed: sum(scores[seed, image] for image in images) / len(images) for seed in seeds}
    image_means = {image: sum(scores[seed, image] for seed in seeds) / len(seeds) for image in images}
    residuals = (
        (scores[seed, image] - seed_means[seed] - image_means[image] + mean) ** 2
        for seed, image in product(seeds, images)
    )
    count = len(scores)
    seed_square = len(images) * sum((value - mean) ** 2 for value in seed_means.values()) / (len(seeds) - 1)
    image_square = len(seeds) * sum((value - mean) ** 2 for value in image_means.values()) / (len(images) - 1)
    residual_square = sum(residuals) / ((len(seeds) - 1) * (len(images) - 1))
    return seed_square / count, image_square / count, residual_square / count


@pytest.mark.parametrize("seed_std", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("residual_std", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_the_half_width_is_that_of_the_mean_squares(seed_std, residual_std, num_seeds):
    rng = np.random.default_rng(1)
    rows = simulate(rng, rng.normal(0, 1, NUM_IMAGES), seed_std, residual_std, num_seeds)
    seeds, images, residual = mean_squares(rows)
    total = max(seeds + images - residual, seeds, images)
    quantiles = student.ppf(0.975, [num_seeds - 1, NUM_IMAGES - 1])
    expected = (quantiles[0] ** 2 * seeds + quantiles[1] ** 2 * (total - seeds)) ** 0.5
    interval = seed_interval(rows, "score")
    assert interval.high - interval.mean == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_difference_pools_the_seeds_of_both_models():
    rng = np.random.default_rng(2)
    effects = rng.normal(0, 1, NUM_IMAGES)
    rows, other_rows = simulate(rng, effects, 0.3, 1.0, 3), simulate(rng, effects, 0.6, 2.0, 5)
    (seeds, _, residual), (other_seeds, _, other_residual) = mean_squares(rows), mean_squares(other_rows)
    differences = rows.groupby("record").score.mean() - other_rows.groupby("record").score.mean()
    images = differences.var(ddof=1) / NUM_IMAGES
    pooled = seeds + other_seeds
    freedom = pooled**2 / (seeds**2 / 2 + other_seeds**2 / 4)
    quantiles = student.ppf(0.975, [freedom, NUM_IMAGES - 1])
    rest_of_variance = max(images - residual - other_residual, images - pooled, 0)
    interval = seed_difference(rows, other_rows, "score")
    expected = (quantiles[0] ** 2 * pooled + quantiles[1] ** 2 * rest_of_variance) ** 0.5
    assert interval.high - interval.mean == pytest.approx(expected)
    assert interval.mean == pytest.approx(differences.mean()) and interval.n == 8 * NUM_IMAGES


def test_paired_seeds_leave_out_what_the_models_of_a_seed_have_in_common():
    rng = np.random.default_rng(6)
    rows = simulate(rng, rng.normal(0, 1, NUM_IMAGES), 3.0, 1.0, 4)
    other_rows = rows.assign(score=rows.score - 2 + rng.normal(0, 0.1, len(rows)))
    unpaired, paired = (seed_difference(rows, other_rows, "score", paired_seeds=pair) for pair in (False, True))
    assert paired.mean == unpaired.mean == pytest.approx(2, abs=0.02) and paired.n == unpaired.n
    assert paired.high - paired.low < 0.05 < 1 < unpaired.high - unpaired.low
    shuffled = other_rows.sample(frac=1, random_state=0)
    assert seed_difference(rows, shuffled, "score", paired_seeds=True) == paired
    with pytest.raises(InputError, match="the two models have different seeds"):
        seed_difference(rows, other_rows.assign(seed=other_rows.seed + 1), "score", paired_seeds=True)


def coverage(num_seeds, seed_std, residual_std, models, repetitions=200):
    "Return the share of simulations whose interval contains the true mean, and the mean width over the ideal one."
    rng = np.random.default_rng([num_seeds, int(10 * seed_std), int(10 * residual_std), models])
    hits, widths = [], []
    for _ in range(repetitions):
        effects = rng.normal(0, 1, NUM_IMAGES)
        if models == 1:
            interval = seed_interval(simulate(rng, effects, seed_std, residual_std, num_seeds), "score")
        else:
            second = simulate(rng, np.zeros(NUM_IMAGES), seed_std, residual_std, num_seeds)
            interval = seed_difference(simulate(rng, effects, seed_std, residual_std, num_seeds), second, "score")
        hits.append(interval.low < 0 < interval.high)
        widths.append((interval.high - interval.low) / 2)
    variance = models * (seed_std**2 / num_seeds + residual_std**2 / num_seeds / NUM_IMAGES) + 1 / NUM_IMAGES
    return np.mean(hits), np.mean(widths) / (1.96 * variance**0.5)


# the seeds do not differ; they count about as much as the images; they count more
@pytest.mark.parametrize(
    ("num_seeds", "seed_std", "residual_std", "models"),
    [(3, 0.0, 1.0, 1), (3, 0.3, 1.0, 1), (3, 0.9, 0.0, 1), (3, 0.0, 1.0, 2), (3, 0.3, 1.0, 2), (5, 0.3, 1.0, 2)],
)
def test_the_interval_covers_the_true_mean(num_seeds, seed_std, residual_std, models):
    share, _ = coverage(num_seeds, seed_std, residual_std, models)
    assert 0.91 <= share <= 1.0  # the standard error of a share of 0.95 is 0.015


def test_the_residual_is_counted_once():
    share, width = coverage(5, 0.0, 2.0, 2, repetitions=200)
    assert share >= 0.91 and width < 1.28  # 1.38 if the residual is counted twice


def test_two_seeds_give_an_interval_and_one_seed_none():
    rng = np.random.default_rng(3)
    rows = simulate(rng, rng.normal(0, 1, NUM_IMAGES), 0.3, 1.0, 2)
    assert np.isfinite(seed_interval(rows, "score").high)
    with pytest.raises(InputError, match="1 seeds"):
        seed_interval(rows[rows.seed == 0], "score")
    with pytest.raises(InputError, match="lacks an image"):
        seed_interval(rows[:-1], "score")
    with pytest.raises(InputError, match="lacks an image"):
        seed_difference(rows, rows[:-1], "score")


def test_seeds_that_agree_exactly_leave_the_interval_over_images():
    rng = np.random.default_rng(4)
    rows = simulate(rng, rng.normal(0, 1, NUM_IMAGES), 0.0, 0.0, 3)
    interval, scores = seed_interval(rows, "score"), rows[rows.seed == 0].score
    assert interval.high - interval.mean == pytest.approx(
        student.ppf(0.975, NUM_IMAGES - 1) * scores.std() / NUM_IMAGES**0.5
    )


def simulate_spreads(rng, num_seeds=5):
    "Return three models with means 1, 0.5 and 0, and three with 0.8, 0.5 and 0.1 that share their images and seeds."
    effects, shifts = rng.normal(0, 1, NUM_IMAGES), ((1, 0.8), (0.5, 0.5), (0, 0.1))
    groups, other_groups = [], []
    for shift, other_shift in shifts:
        kind_effects = effects + rng.normal(0, 0.3, NUM_IMAGES)
        rows = simulate(rng, kind_effects, 0.1, 0.5, num_seeds)
        noise = rng.normal(0, 0.5, len(rows))
        groups.append(rows.assign(score=rows.score + shift))
        other_groups.append(rows.assign(score=rows.score + other_shift + noise))
    return groups, other_groups


def test_the_interval_of_a_difference_of_spreads_covers_it():
    rng = np.random.default_rng(5)
    intervals = [spread_difference(*simulate_spreads(rng), "score") for _ in range(200)]
    assert 0.91 <= np.mean([interval.low < 0.3 < interval.high for interval in intervals]) <= 1.0


def test_a_difference_of_spreads_is_a_difference_of_paired_differences():
    groups, other_groups = simulate_spreads(np.random.default_rng(6))
    changes = [rows.assign(score=rows.score - other.score) for rows, other in zip(groups, other_groups)]
    interval = spread_difference(groups, other_groups, "score")
    expected = seed_difference(changes[0], changes[2], "score")
    assert [interval.mean, interval.low, interval.high] == pytest.approx([expected.mean, expected.low, expected.high])
