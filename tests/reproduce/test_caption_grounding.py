"""Grounding of captions from fc7 down to cells: a slow reference with explicit loops and autograd, and conservation."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from assertions import assert_input_error
from cgsaliency.core.geometry import ImageCrop, MapGeometry
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.explain.excitation_rnn import VARIANTS
from cgsaliency.features.backbone import Backbone
from cgsaliency.features.extractor import DescriptorExtractor
from cgsaliency.models.mean_pool import MeanPoolCaptioner
from cgsaliency.reproduce.caption_grounding import (
    EB_R_METHODS,
    CaptionGrounding,
    load_caption_grounding,
    save_caption_grounding,
)

NUM_FRAMES, NUM_UNITS, HIDDEN = 3, 12, 6
TOKENS = ("a", "dog", "near", "a", "boat")
VOCABULARY = Vocabulary.from_captions([TOKENS])


@pytest.fixture(scope="module")
def grounding() -> CaptionGrounding:
    torch.manual_seed(1)
    backbone = Backbone("toyvgg", "fc7", channels=8, hidden_dim=NUM_UNITS)
    return CaptionGrounding(DescriptorExtractor(backbone, 1, 1), "features.9")


@pytest.fixture(scope="module")
def captioner() -> MeanPoolCaptioner:
    torch.manual_seed(2)
    model = MeanPoolCaptioner(VOCABULARY, NUM_UNITS, word_dim=5, hidden_dim=HIDDEN)
    for parameter in model.parameters():
        parameter.data.add_(0.4 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    return torch.rand(NUM_FRAMES, 3, 112, 112, generator=torch.Generator().manual_seed(3))


def excite(responses: Tensor, weight: Tensor, mwp: Tensor) -> Tensor:
    "Return P of the children by Eq. 1 and 3, unit by unit: every parent's P is shared among its excited children."
    weight, children = weight.detach(), torch.zeros_like(responses)
    for parent, share in enumerate(mwp):
        contributions = [max(float(w), 0.0) * float(a) for w, a in zip(weight[parent], responses, strict=True)]
        total = sum(contributions)
        for child, contribution in enumerate(contributions):
            if total > 0:
                children[child] += share * contribution / total
    return children


def lstm_states(captioner: MeanPoolCaptioner, words: Tensor, mean: Tensor) -> list[dict[str, Tensor]]:
    "Run the second LSTM; between steps only the cell is kept in the graph, so that autograd gives the 'code' rules."
    lstm, steps = captioner.second, []
    h = c = torch.zeros(HIDDEN)
    for x in words:
        gates = lstm.weight_ih_l0 @ x + lstm.weight_hh_l0 @ h.detach() + lstm.weight_context @ mean + lstm.bias_ih_l0
        gates = (gates + getattr(lstm, "bias_hh_l0", 0.0)).detach().requires_grad_()
        i, f, g, o = gates.chunk(4)
        retained, new = f.sigmoid() * c, i.sigmoid() * g.relu()
        previous, c = h, retained + new
        h = o.sigmoid() * c.relu()
        steps.append({"gates": gates, "retained": retained, "new": new, "h": h, "previous": previous})
    return steps


def code_mean(captioner: MeanPoolCaptioner, steps: list[dict], seed: Tensor, position: int, mean: Tensor) -> Tensor:
    "Return P of the mean's units in the variant 'code'."
    score = seed @ steps[position]["h"]
    gradients = torch.autograd.grad(score, [step["gates"] for step in steps[: position + 1]], retain_graph=True)
    return excite(mean, captioner.second.weight_context, torch.stack(gradients).sum(0))


def paper_mean(
    captioner: MeanPoolCaptioner, steps: list[dict], seed: Tensor, position: int, mean: Tensor, words: Tensor
) -> Tensor:
    "Return P of the mean's units in the variant 'paper', step by step and unit by unit."
    rows = slice(2 * HIDDEN, 3 * HIDDEN)  # of the candidate
    lstm, at_mean = captioner.second, torch.zeros_like(mean)
    weight = torch.cat([lstm.weight_ih_l0[rows], lstm.weight_hh_l0[rows], lstm.weight_context[rows]], 1)
    at_cell, at_h = torch.zeros(HIDDEN), seed
    for t in range(position, -1, -1):
        step, state = steps[t], at_cell + at_h
        at_cell, at_candidate = torch.zeros(HIDDEN), torch.zeros(HIDDEN)
        for k in range(HIDDEN):
            retained, new = max(float(step["retained"][k]), 0.0), max(float(step["new"][k]), 0.0)
            if retained + new > 0:
                at_cell[k] = state[k] * retained / (retained + new)
                at_candidate[k] = state[k] * new / (retained + new)
        responses = torch.cat([words[t], step["previous"], mean]).clamp(min=0)
        shares = excite(responses, weight, at_candidate)
        at_h, at_mean = shares[len(words[t]) : -len(mean)], at_mean + shares[-len(mean) :]
    return at_mean


def reference_maps(grounding: CaptionGrounding, captioner: MeanPoolCaptioner, inputs: Tensor, variant: str) -> Tensor:
    "Return the maps of EB-R and cEB-R, 2 × words × T × rows × columns, by loops over words, frames and units."
    layers = grounding.extractor.backbone.body
    with torch.no_grad():
        cells = 2 * inputs - 1
        for index in range(10):
            cells = layers.features.get_submodule(str(index))(cells)
        pooled = F.max_pool2d(cells, 2).flatten(1)
        fc6 = layers.classifier.get_submodule("0")(pooled).relu()
        fc7 = layers.classifier.get_submodule("3")(fc6).relu()
        token_ids = captioner.encode_words(list(TOKENS))[0]
        words = captioner.trace(fc7[:, None].mean(0)[None], token_ids[None])[1].inputs[:, 0]
    mean, maps = fc7.mean(0), torch.zeros(2, len(TOKENS), NUM_FRAMES, 14, 14)
    steps = lstm_states(captioner, words, mean)
    for position, token_id in enumerate(token_ids):
        signs = []
        for sign in (1, -1):
            output = sign * captioner.to_logits.weight[token_id][None]
            seed = excite(steps[position]["h"], output, torch.ones(1)).detach()
            if variant == "code":
                at_mean = code_mean(captioner, steps, seed, position, mean)
            else:
                at_mean = paper_mean(captioner, steps, seed, position, mean, words)
            total = at_mean.sum()
            signs.append((at_mean / total if total != 0 else at_mean).detach())
        for m, evidence in enumerate((signs[0], signs[0] - signs[1])):
            for t in range(NUM_FRAMES):
                shares = evidence * torch.where(mean > 0, fc7[t] / (NUM_FRAMES * mean).clamp(min=1e-30), 0.0)
                at_fc6 = excite(fc6[t], layers.classifier.get_submodule("3").weight, shares)
                at_pooled = excite(pooled[t], layers.classifier.get_submodule("0").weight, at_fc6)
                frame = cells[t : t + 1].clone().requires_grad_()  # max pooling passes P to the largest cell
                (at_cells,) = torch.autograd.grad(F.max_pool2d(frame, 2), frame, at_pooled.view(1, 8, 7, 7))
                maps[m, position, t] = at_cells[0].sum(0)
    return maps.detach()


@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_of_fc7_equal_a_slow_reference(grounding, captioner, inputs, variant):
    geometry = MapGeometry(view=ImageCrop.full(112, 112, 112), times=[0.0, 1.0, 2.0])
    (explained,) = grounding.explain(captioner, inputs, [TOKENS], geometry, (variant,))
    expected = reference_maps(grounding, captioner, inputs, variant)
    assert expected[0].sum() > 1
    for method, maps in zip(EB_R_METHODS, expected, strict=True):
        difference = (explained[method, variant].saliency - maps).abs().max()
        assert difference <= 1e-4 * maps.abs().max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_evidence_is_conserved_from_fc7_to_the_cells(grounding, captioner, inputs, variant):
    (explained,) = grounding.explain(captioner, inputs, [TOKENS])
    sums = {method: explained[method, variant].saliency.sum((1, 2, 3)) for method in EB_R_METHODS}
    assert torch.allclose(sums["EB-R"], torch.ones(len(TOKENS)), atol=1e-4)
    assert torch.allclose(sums["cEB-R"], torch.zeros(len(TOKENS)), atol=1e-4)
    per_frame = explained["EB-R", variant].saliency.sum((2, 3))
    assert per_frame.std(1).max() > 1e-4  # frames differ


def test_variants_differ(grounding, captioner, inputs):
    (explained,) = grounding.explain(captioner, inputs, [TOKENS])
    paper, code = (explained["EB-R", variant].saliency for variant in VARIANTS)
    assert (paper - code).abs().max() > 0.01 * paper.abs().max()


def test_errors(grounding, tmp_path):
    assert_input_error(lambda: CaptionGrounding(grounding.extractor), "has no cells")
    save_caption_grounding(tmp_path, "extractor.json", "features.9")
    assert_input_error(lambda: load_caption_grounding(tmp_path), "extractor.json")


def test_the_maps_of_a_phrase_are_those_of_its_words_added(grounding, captioner, inputs):
    spans = [slice(0, 2), slice(1, len(TOKENS))]
    (of_words,) = grounding.explain(captioner, inputs, [TOKENS])
    (added,) = grounding.explain(captioner, inputs, [TOKENS], spans=[spans], methods=("cEB-R",), at_once=False)
    assert list(added) == [("cEB-R", variant) for variant in VARIANTS]
    for key, explanation in added.items():
        expected = torch.stack([of_words[key].saliency[span].sum(0) for span in spans])
        assert torch.allclose(explanation.saliency, expected, atol=1e-5 * expected.abs().max())
