"""Areas of Attention across modules: from drawn pictures to captions, maps and scores; sums over pairs at sizes where they could overflow; a user's own boxes."""
import subprocess, sys

import pytest
import torch
from torch import nn

from cgsaliency.core.contracts import Attentive
from cgsaliency.core.errors import BadInput
from cgsaliency.core.regions import Regions, moved
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.data.proposals import ProposalStore
from cgsaliency.data.text import Vocabulary
from cgsaliency.evaluate.correctness import correctness_rows
from cgsaliency.evaluate.nouns import central_square, noun_rows, nouns_of
from cgsaliency.explain.attention import area_attention, area_weights
from cgsaliency.models.areas import About, Areas, areas_loss
from cgsaliency.models.captioning import captions_of, load_captioner, target_words
from cgsaliency.models.decode import Together, beam_search
from cgsaliency.models.fit import Recipe
from cgsaliency.models.joint import fits, over_regions, over_words
from cgsaliency.models.lookers import Sights, School, said_by, seen_by, train_looker, views_of
from cgsaliency.models.looking import CUTS, Eyes, Looker

KINDS = ("grid", "proposals", "transformers")
SIZES = {"words": 8, "hidden": 12, "dropout": 0.2}


@pytest.fixture(scope="module")
def drawn(toybox, tmp_path_factory):
    "Records, vocabulary, captions, and boxes of eight drawn pictures."
    records = load_flickr30k(toybox, "train").records[:8]
    vocabulary = Vocabulary.of([sentence.tokens for record in records for sentence in record.sentences])
    boxes = ProposalStore(tmp_path_factory.mktemp("proposals"), records, most=12, none="whole").find(progress=False).boxes_of(records, views_of(records, "toyvgg"), 10)[0]
    return records, vocabulary, target_words(list(records), vocabulary, 12, 2), boxes


def taught(drawn, kind, folder, seed=0, pictures=False):
    "A looker that was trained for a few steps."
    records, vocabulary, captions, boxes = drawn
    torch.manual_seed(0)
    eyes = Eyes("toyvgg", num_classes=4)
    sights = Sights.of_pictures(records, "toyvgg", boxes) if pictures else seen_by(eyes, folder / "features", records, boxes)
    settings = {"network": "toyvgg", "kind": kind, "stride": 4, "num_classes": 4}
    return train_looker(folder / kind / str(seed), vocabulary, settings, SIZES, sights, captions, sights, captions, Recipe(epochs=3, batch_size=4, learning_rate=0.01, seed=seed), eyes.network.state_dict(), learns=pictures), sights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pictures", (False, True))
def test_a_looker_learns_is_kept_and_says_the_same(drawn, tmp_path, kind, pictures):
    (looker, history), sights = taught(drawn, kind, tmp_path, pictures=pictures)
    assert history[-1]["loss"] < history[0]["loss"]
    (again, second), _ = taught(drawn, kind, tmp_path / "again", pictures=pictures)
    assert history == second and all(torch.equal(value, again.state_dict()[name]) for name, value in looker.state_dict().items())
    kept = load_captioner(Looker, tmp_path / kind / "0")
    assert said_by(kept, sights) == said_by(looker, sights) and set(said_by(kept, sights)) == {record.id for record in drawn[0]}


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_a_looker_are_scored_by_both_measures(drawn, tmp_path, kind):
    (looker, _), sights = taught(drawn, kind, tmp_path)
    records = drawn[0]
    views = dict(zip((record.id for record in records), views_of(records, "toyvgg")))

    def explain(record, number, given="state", view=None):
        k = sights.ids.index(record.id)
        with torch.no_grad(): values, corners, whole = looker.eyes.look(sights.seen[k:k + 1].float(), sights.boxes[k:k + 1])
        regions, captioner = Regions(corners[0], views[record.id]), About(looker.words, whole[0])
        assert isinstance(captioner, Attentive)
        tokens = record.sentences[number].tokens
        weights = area_weights(captioner, values[0], tokens, given, cut=True)
        known = captioner.encode_words(list(tokens), cut=True)[1]
        assert torch.allclose(weights[known].sum(1), torch.ones(len(known)), atol=1e-5)
        return area_attention(captioner, values[0], moved(regions, view(record)) if view else regions, tokens, given, cut=True, side=28)

    nouns = noun_rows(lambda record, number: explain(record, number, view=central_square), records, nouns_of(records))
    phrases = correctness_rows(explain, records[:3])
    for rows in (nouns, phrases): assert rows.mass.between(0, 1.0001).all() and len(rows)
    assert not torch.equal(explain(records[0], 0).saliency, explain(records[0], 0, "word").saliency)


@pytest.mark.parametrize("far", (0.0, 60.0, 400.0))
def test_sums_over_pairs_hold_where_scores_are_large(far):
    "Words whose scores are far from all others neither overflow nor vanish, in single precision."
    generator = torch.Generator().manual_seed(1)
    a, c, words, values = (torch.randn(*shape, generator=generator) for shape in ((2, 3, 30), (2, 3, 7), (30, 5), (2, 7, 5)))
    a[..., 3], words[4] = a[..., 3] + far, words[4] * (1 + far / 10)
    table, highest = fits(words, values)
    pairs = (a.double()[..., None] + c.double()[:, :, None] + (words.double() @ values.double().mT)[:, None])
    for found, expected in ((over_regions(a, c, table, highest), pairs.logsumexp(3)), (over_words(a, c, table, highest), pairs.logsumexp(2))):
        assert ((found - expected) / expected.abs().clamp_min(1)).abs().max() < 1e-5


@pytest.mark.parametrize("form", ("paper", "code"))
@pytest.mark.parametrize("feedback", ("marginal", "conditional", None))
def test_derivatives_are_those_of_finite_differences(form, feedback):
    torch.manual_seed(0)
    model = Areas(Vocabulary.of([list("abc")]), 3, words=4, hidden=5, form=form, feedback=feedback, dropout=0.0).double()
    for part in model.parameters(): nn.init.normal_(part, std=0.5)
    values, captions = torch.rand(2, 3, 3, dtype=torch.float64), torch.tensor([[[1, 2, 0], [3, 0, -1]], [[2, 2, 1], [1, 0, -1]]])
    areas_loss(model, (values, captions)).backward()
    for name, part in model.named_parameters():
        place = int(part.grad.abs().argmax())
        with torch.no_grad():
            flat, losses = part.view(-1), []
            for step in (1e-5, -2e-5): flat[place] += step; losses.append(areas_loss(model, (values, captions)))
            flat[place] += 1e-5
        assert abs((losses[0] - losses[1]) / 2e-5 - part.grad.view(-1)[place]) < 1e-6, name


def test_regions_that_are_not_there_change_nothing():
    torch.manual_seed(0)
    model = Areas(Vocabulary.of([list("abcd")]), 6, words=4, hidden=5).eval()
    values, words, image = torch.rand(1, 3, 6), torch.tensor([[1, 3, 2]]), torch.rand(1, 6)
    padded, there = torch.cat([values, 9 * torch.rand(1, 2, 6)], 1), torch.tensor([[True] * 3 + [False] * 2])
    with torch.no_grad():
        assert torch.allclose(model.logits(model.begin(values, image), words), model.logits(model.begin(padded, image, there), words), atol=1e-5)
        assert beam_search(model, (padded, image, there), 3, 5)[0] == beam_search(model, (values, image), 3, 5)[0]


def test_an_ensemble_of_lookers_speaks(drawn, tmp_path):
    members = [taught(drawn, "grid", tmp_path, seed)[0][0] for seed in (0, 1)]
    sights = taught(drawn, "grid", tmp_path)[1]
    said = captions_of(Together(members), sights.ids, (sights.seen, sights.seen), beam=2)
    assert set(said) == set(sights.ids)


@pytest.mark.parametrize("name", list(CUTS))
def test_eyes_see_what_their_network_sees(name):
    "γ, the last map and φ are the whole network's own values."
    torch.manual_seed(0)
    eyes = Eyes(name).eval()
    picture = torch.rand(1, 3, CUTS[name].size, CUTS[name].size)
    seen = {}
    layer = eyes.network.classifier[CUTS[name].whole - 1] if CUTS[name].whole else eyes.network.features
    handle = layer.register_forward_hook(lambda module, given, value: seen.update(value=value))
    with torch.no_grad():
        eyes.network((picture - eyes.mean) / eyes.std)
        own = eyes.whole(eyes.map_of(eyes.lower(picture)))
    handle.remove()
    assert torch.allclose(own, seen["value"] if CUTS[name].whole else seen["value"].mean((2, 3)), atol=1e-5)


def test_a_school_says_what_is_missing(drawn, tmp_path):
    with pytest.raises(BadInput, match="seeing.json"): School.of({"train": drawn[0], "val": drawn[0], "test": drawn[0]}, tmp_path / "seeing.json", tmp_path)


def test_memory_of_a_step_grows_with_words_plus_regions():
    "Ten times the steps take nowhere near the memory of all pairs of words and regions of all steps."
    code = """
import torch
from cgsaliency.data.text import Vocabulary
from cgsaliency.models.areas import Areas, areas_loss
def most():
    with open('/proc/self/status') as status: return next(int(line.split()[1]) for line in status if line.startswith('VmHWM')) / 1e6
torch.manual_seed(0)
model = Areas(Vocabulary.of([[f'w{k}' for k in range(2000)]]), 32, words=32, hidden=32)
values, captions = torch.rand(4, 100, 32), torch.randint(1, 2000, (4, 5, 20))
areas_loss(model, (values[:, :2], captions[..., :2])).backward()
before = most()
areas_loss(model, (values, captions)).backward()
print(most() - before)
"""
    if not sys.platform.startswith("linux"): pytest.skip("reads Linux's own count of memory")
    grown = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert grown < 0.25 * 4 * 5 * 20 * 2000 * 100 * 4 / 1e9, grown     # all pairs: 0.32 GB
