"""Deletion and insertion with a describer and a captioner of random weights, and what they refuse."""
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cgsaliency.core.contracts import Descriptors
from cgsaliency.core.errors import BadInput
from cgsaliency.core.explanation import Explanation
from cgsaliency.core.geometry import Grid, View
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.data.frames import pictures_of
from cgsaliency.data.text import Vocabulary
from cgsaliency.evaluate.faithfulness import Ask, Regions, ask_descriptors, ask_pixels, composed, curves, faithfulness_rows, kept_masks, nearest_cells, ranked, region_values
from cgsaliency.evaluate.pointing import pointing_rows
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.explain.reference import centre, random
from cgsaliency.models.backbone import Backbone
from cgsaliency.models.descriptors import Describer
from cgsaliency.models.s2vt import S2VT


@pytest.fixture(scope="module")
def small(toybox):
    "Three drawn pictures, a describer of 4 × 4 cells of a crop, a captioner that does not know each word, and what asks them."
    records = load_flickr30k(toybox, "train").records[:3]
    torch.manual_seed(0)
    describer = Describer(Backbone("toynet", size=64, width=12), rows=4, columns=4, view="crop")
    vocabulary = Vocabulary.of([sentence.tokens for record in records for sentence in record.sentences], min_count=3)
    captioner = S2VT(vocabulary, features=12, embedding=8, words=6, hidden=10, max_words=12, dropout=0.5).train()
    values = describer(records)

    def descriptors(record): return describer.of(record, values[[one.id for one in records].index(record.id)])
    def picture(record): return pictures_of([record.path], [describer.view_of(record)])[0]
    def explain(record, number): return cgvs(captioner, descriptors(record), record.sentences[number].tokens, cut=True)
    def noise(record, number): return random(record.sentences[number].tokens, describer.view_of(record), f"{record.id}/{number}")
    def middle(record, number): return centre(record.sentences[number].tokens, describer.view_of(record))
    asks = {"descriptors, left out": lambda record, number: ask_descriptors(captioner, descriptors(record), record.sentences[number].tokens, cut=True),
            "descriptors, replaced": lambda record, number: ask_descriptors(captioner, descriptors(record), record.sentences[number].tokens, values.mean((0, 1)), cut=True),
            "pixels": lambda record, number: ask_pixels(captioner, describer.cells_of, picture(record), Regions(describer.grid, describer.view_of(record)), record.sentences[number].tokens, cut=True)}
    return SimpleNamespace(records=records, describer=describer, captioner=captioner, descriptors=descriptors, picture=picture, asks=asks, explainers={"cgvs": explain, "random": noise, "centre": middle})


def said(captioner, values, tokens):
    "log p of each known word, one sentence at a time."
    words, _ = captioner.encode_words(list(tokens), cut=True)
    captioner.eval()
    with torch.no_grad(): log_p = captioner.log_probs(values[None], words[None])[0]
    captioner.train()
    return torch.stack([log_p[t, word] for t, word in enumerate(words)]).double()


@pytest.mark.parametrize("medium", ["descriptors, left out", "descriptors, replaced", "pixels"])
def test_rows_of_all_methods_stand_beside_each_other_and_beside_the_pointing_game(small, medium):
    rows = faithfulness_rows(small.explainers, small.records, small.asks[medium], steps=4)
    assert faithfulness_rows(small.explainers, small.records, small.asks[medium], steps=4).equals(rows)
    phrase = ["record", "sentence", "start", "stop", "phrase", "chain", "categories"]
    beside = rows.pivot(index=phrase, columns="method", values=["deletion", "insertion", "whole", "nothing"])
    assert not beside.isna().any().any() and ((0 < beside) & (beside < 1)).all().all() and (beside.nunique() > len(beside) / 2).all()
    for end in ("whole", "nothing"): assert (beside[end].nunique(axis=1) == 1).all()         # the ends are the same for all methods
    assert all(module.training for module in small.captioner.modules())
    pointed = pointing_rows(small.explainers["cgvs"], small.records).set_index(phrase)
    unknown = [key for key in pointed.index if key not in beside.index]
    assert set(beside.index) <= set(pointed.index) and pointed.loc[unknown].x.isna().all() and not pointed.loc[beside.index].x.isna().any()
    assert len(unknown) > 0                                                                  # of which the captioner knows no word, or that lie behind its longest sentence


def test_everything_is_what_the_captioner_says_of_the_picture(small):
    record, number = small.records[1], 0
    tokens = record.sentences[number].tokens
    everything = said(small.captioner, small.descriptors(record).values, tokens)
    for medium, ask in small.asks.items():
        asking = ask(record, number)
        assert torch.allclose(asking(torch.ones(1, 16, dtype=torch.bool))[0], everything, atol=1e-5), medium
        assert asking.positions == tuple(small.captioner.encode_words(list(tokens), cut=True)[1].tolist())


def test_curves_are_those_of_a_loop_over_masks(small):
    record, number = small.records[0], 0
    tokens, values, picture = record.sentences[number].tokens, small.descriptors(record).values, small.picture(record)
    order, steps = ranked(torch.zeros(16), "any"), 5
    cells, filler = nearest_cells(small.describer.grid), torch.tensor([0.2, 0.9, 0.4])
    left_out = small.asks["descriptors, left out"](record, number)
    pixels = ask_pixels(small.captioner, small.describer.cells_of, picture, left_out.regions, tokens, filler, cut=True, together=3)
    span = slice(0, len(tokens))
    for k, removed in enumerate((0, 3, 6, 10, 13, 16)):
        for curve, kept in (("deletion", order[removed:].sort().values), ("insertion", order[:removed].sort().values)):
            alone = [values[kept]] if len(kept) else [value[None] for value in values]
            expected = torch.stack([said(small.captioner, one, tokens) for one in alone]).mean(0).mean().exp()
            assert torch.allclose(getattr(curves(left_out, [(span, order)], steps)[0], curve)[k], expected, rtol=1e-5)
            shown = filler[:, None, None].repeat(1, 64, 64)
            for cell in kept: shown[:, cells == cell] = picture[:, cells == cell]
            assert torch.allclose(getattr(curves(pixels, [(span, order)], steps)[0], curve)[k], said(small.captioner, small.describer.cells_of(shown[None])[0], tokens).mean().exp(), rtol=1e-4)


def test_equal_masks_are_asked_once(small):
    record, number, read = small.records[0], 0, []
    asking = small.asks["descriptors, replaced"](record, number)
    counted = Ask(asking.regions, asking.positions, lambda kept: (read.append(len(kept)), asking.answer(kept))[1], 16)
    orders = [ranked(torch.zeros(16), f"{k}") for k in range(5)]
    known = asking.positions[0]
    together = curves(counted, [(slice(known, known + 1), order) for order in orders], 8)
    assert sum(read) <= 2 + 5 * 2 * 7 and max(read) <= 16
    for order, one in zip(orders, together): assert torch.allclose(curves(asking, [(slice(known, known + 1), order)], 8)[0].deletion, one.deletion, rtol=1e-5)


def test_frames_of_a_film_are_regions(small):
    torch.manual_seed(1)
    view, tokens = View.whole(96, 72, 64), small.records[0].sentences[0].tokens
    film = Descriptors(torch.randn(6, 12), Grid.even(1, 1, 64, 64), view, tuple(k / 2 for k in range(6)))
    asking = ask_descriptors(small.captioner, film, tokens, cut=True)
    evidence = cgvs(small.captioner, film, tokens, cut=True)
    assert torch.equal(region_values(evidence, asking.regions, 1), evidence.saliency[1].double().flatten()) and len(asking.regions) == 6
    kept = kept_masks(ranked(region_values(evidence, asking.regions, 1), "film"), 6)
    assert torch.allclose(asking(kept)[2], said(small.captioner, film.values[kept[2]], tokens), atol=1e-5)
    with pytest.raises(BadInput, match="has 6 frames, the regions have 5"): region_values(evidence, Regions(film.grid, view, film.times[:5]))
    with pytest.raises(BadInput, match="Give the network's input of one picture"): composed(torch.zeros(3, 64, 64), torch.zeros(3), asking.regions, kept)


def with_weights_lost(captioner):
    lost = S2VT(captioner.vocabulary, features=12, embedding=8, words=6, hidden=10, max_words=12)
    lost.to_words.bias.data.fill_(float("nan"))
    return lost


def test_what_cannot_be_judged_is_refused(small):
    record, number = small.records[0], 0
    tokens, seen, picture, crop = record.sentences[number].tokens, small.descriptors(record), small.picture(record), small.describer.view_of(record)
    asking, regions = small.asks["pixels"](record, number), Regions(small.describer.grid, small.describer.view_of(record))
    explanation = small.explainers["cgvs"](record, number)
    span, order, cells = slice(0, len(tokens)), torch.arange(16), small.describer.cells_of
    whole = Regions.even(View.whole(record.width, record.height, 64), 4, 4)
    other = Regions.even(View.whole(record.height + 1, record.width, 64), 4, 4)
    holes = replace(explanation, saliency=explanation.saliency / 0)
    refused = [
        (lambda: kept_masks(order, 0), "steps: 0 for 16 regions"),
        (lambda: curves(asking, [(span, order)], -3), "steps: -3 for 16 regions"),
        (lambda: curves(asking, [(span, order)], 17), "steps: 17 for 16 regions"),
        (lambda: asking(torch.ones(2, 15, dtype=torch.bool)), "masks: are torch.bool of shape (2, 15); expected booleans of shape B × 16"),
        (lambda: asking(torch.ones(2, 16)), "masks: are torch.float32"),
        (lambda: asking(torch.ones(16, dtype=torch.bool)), "masks: are torch.bool of shape (16,)"),
        (lambda: curves(asking, [(slice(0, 0), order)]), "phrase 0:0: has no word that the captioner knows"),
        (lambda: region_values(explanation, whole), "explanation by cgvs: is of "),
        (lambda: region_values(explanation, other), f"the regions are of {record.height + 1} × {record.width} pixels"),
        (lambda: region_values(holes, regions), "values that are not finite"),
        (lambda: region_values(random(tokens, crop, "any"), Regions.even(replace(crop, input_width=2, input_height=2), 4, 4)), "leave some without a pixel"),
        (lambda: ask_pixels(small.captioner, cells, picture, regions, tokens, torch.zeros(3, 32, 32), cut=True), "filler: has shape (3, 32, 32); expected (3, 64, 64) or 3 numbers"),
        (lambda: ask_pixels(small.captioner, cells, picture, regions, tokens, torch.zeros(1, 64, 64), cut=True), "filler: has shape (1, 64, 64)"),
        (lambda: ask_pixels(small.captioner, cells, picture[:, :32], regions, tokens, cut=True), "picture: has shape (3, 32, 64)"),
        (lambda: ask_pixels(small.captioner, lambda pictures: cells(pictures)[0], picture, regions, tokens, cut=True)(kept_masks(order)), "describe: gives shape (16, 12)"),
        (lambda: ask_pixels(small.captioner, cells, picture, regions, tokens, torch.full((3,), torch.nan), cut=True)(kept_masks(order)), "log-probabilities that are not finite for 8 of 9 masks"),
        (lambda: ask_descriptors(small.captioner, seen, tokens, torch.zeros(13), cut=True), "baseline: has shape (13,)"),
        (lambda: ask_descriptors(small.captioner, seen, tokens, torch.full((12,), torch.inf), cut=True), "not finite"),
        (lambda: ask_descriptors(with_weights_lost(small.captioner), seen, tokens, cut=True)(kept_masks(order)), "captioner: gives log-probabilities that are not finite for 9 of 9 masks"),
        (lambda: ask_descriptors(small.captioner, seen, tokens, cut=True, together=0), "together: is 0"),
        (lambda: ask_descriptors(small.captioner, seen, ("xyzzy",)), "none of its words"),
        (lambda: faithfulness_rows({}, small.records, small.asks["pixels"]), "no phrase was judged"),
        (lambda: faithfulness_rows({"elsewhere": lambda record, number: random(record.sentences[number].tokens, whole.view, "any")}, [record], small.asks["pixels"]), "explanation by random: is of "),
    ]
    for use, says in refused:
        with pytest.raises(BadInput) as error: use()
        assert says in str(error.value), (says, str(error.value))


def test_a_region_is_as_large_on_each_grid(small):
    record = small.records[0]
    regions = Regions(small.describer.grid, small.describer.view_of(record))
    assert nearest_cells(small.describer.grid).unique().tolist() == list(range(16))
    right = torch.zeros(1, 1, 64, 64)
    right[..., 32:] = 1                                        # the right half, on a fine grid of an input of another size
    fine = Explanation(right, ("half",), Grid.even(64, 64, 128, 128), replace(regions.view, input_width=128, input_height=128), "by hand")
    first = ranked(region_values(fine, regions), "any")[:8]
    assert (first % 4 >= 2).all()
