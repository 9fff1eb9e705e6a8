"""Areas of Attention: derivatives, masked regions, the two parameterizations, and beam search."""

import pytest
import torch
from torch import nn

from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.models.areas_of_attention import AreasOfAttention, areas_loss
from cgsaliency.models.decode import beam_search


@pytest.mark.parametrize("parameterization", ("paper", "code"))
@pytest.mark.parametrize("feedback", ("marginal", "conditional", None))
def test_gradients_equal_finite_differences(parameterization, feedback):
    torch.manual_seed(0)
    model = AreasOfAttention(
        Vocabulary.from_captions([list("abc")]),
        3,
        word_dim=4,
        hidden_dim=5,
        parameterization=parameterization,
        feedback=feedback,
        dropout=0.0,
    ).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    features, captions = (
        torch.rand(2, 3, 3, dtype=torch.float64),
        torch.tensor([[[1, 2, 0], [3, 0, -1]], [[2, 2, 1], [1, 0, -1]]]),
    )
    areas_loss(model, (features, captions)).backward()
    for name, parameter in model.named_parameters():
        index = int(parameter.grad.abs().argmax())
        with torch.no_grad():
            flat, losses = parameter.view(-1), []
            for step in (1e-5, -2e-5):
                flat[index] += step
                losses.append(areas_loss(model, (features, captions)))
            flat[index] += 1e-5
        assert abs((losses[0] - losses[1]) / 2e-5 - parameter.grad.view(-1)[index]) < 1e-6, name


def test_masked_regions_change_nothing():
    torch.manual_seed(0)
    model = AreasOfAttention(Vocabulary.from_captions([list("abcd")]), 6, word_dim=4, hidden_dim=5).eval()
    features, token_ids, image = torch.rand(1, 3, 6), torch.tensor([[1, 3, 2]]), torch.rand(1, 6)
    padded, mask = torch.cat([features, 9 * torch.rand(1, 2, 6)], 1), torch.tensor([[True] * 3 + [False] * 2])
    with torch.no_grad():
        assert torch.allclose(
            model.logits(model.init_state(features, image), token_ids),
            model.logits(model.init_state(padded, image, mask), token_ids),
            atol=1e-5,
        )
        assert beam_search(model, (padded, image, mask), 3, 5)[0] == beam_search(model, (features, image), 3, 5)[0]


def make_captioner(**kwargs):
    "Return a captioner of six words, whose words depend on state and regions."
    torch.manual_seed(0)
    sizes = {"word_dim": 4, "hidden_dim": 5, "dropout": 0.0}
    model = AreasOfAttention(Vocabulary.from_captions([list("abcde")]), 6, **sizes, **kwargs).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.8)
    return model


def test_only_the_code_scales_regions_to_length_1():
    features = torch.rand(3, 4, 6) * torch.tensor([1.0, 2.0, 5.0, 9.0])[:, None]
    for parameterization in ("paper", "code"):
        model = make_captioner(parameterization=parameterization).set_scales(features, features.mean(1))
        state_features = model.init_state(features).features
        lengths = state_features.norm(dim=-1)
        if parameterization == "code":
            assert torch.allclose(lengths, torch.ones(3, 4))
        else:
            # one constant for all regions: relative lengths are kept
            constant = features / state_features
            assert torch.allclose(constant, constant[0, 0, 0].expand_as(constant))
            assert state_features.pow(2).mean().sqrt().isclose(torch.tensor(1.0)) and lengths.std() > 0.5


def test_only_the_paper_ties_the_word_vectors_of_its_terms():
    features, token_ids = torch.rand(2, 3, 6), torch.tensor([[1, 4, 0], [2, 0, 0]])
    for parameterization, is_tied in (("paper", True), ("code", False)):
        model = make_captioner(parameterization=parameterization, feedback=None)
        h = torch.rand(2, 1, 5)
        with torch.no_grad():
            scores, pair_scores = model.scores.word_scores(h), model.scores.word_vectors(token_ids)
            model.embed_word.weight.mul_(2)
            new_scores, new_pair_scores = model.scores.word_scores(h), model.scores.word_vectors(token_ids)
        assert torch.equal(new_scores, scores) != is_tied and torch.equal(new_pair_scores, pair_scores) != is_tied
        assert ("word_bias" in model.scores.state_dict()) == is_tied
        # in the form of the paper φ gives the first state (section 3.2); in that of the code it is the first input
        assert model.from_image.out_features == (5 if is_tied else 4) and features.shape[2] == model.feature_dim


def test_a_constant_scale_of_the_regions_matters_only_in_the_paper():
    features, token_ids = torch.rand(1, 3, 6), torch.tensor([[1, 4, 0]])
    for parameterization in ("paper", "code"):
        model = make_captioner(parameterization=parameterization)
        with torch.no_grad():
            logits, others = (model.logits(model.init_state(k * features), token_ids) for k in (1, 3))
        assert torch.allclose(logits, others, atol=1e-5) == (parameterization == "code")


def slow_beam_search(model, inputs, beam, max_words):
    "Search with the scores of whole prefixes (teacher forcing), for one image."
    hypotheses = [((), 0.0)]
    for step in range(max_words + 1):
        candidates = [(words, score) for words, score in hypotheses if words[-1:] == (0,)]
        for words, score in hypotheses:
            if words[-1:] == (0,):
                continue
            logits = model.logits(model.init_state(*inputs), torch.tensor([[*words, 0]]))
            log_probs = logits[0, -1].log_softmax(-1).tolist()
            choices = range(len(log_probs)) if step < max_words else (0,)
            candidates += [((*words, word), score + log_probs[word]) for word in choices]
        hypotheses = sorted(candidates, key=lambda candidate: -candidate[1])[:beam]
    words, score = hypotheses[0]
    return list(words[:-1]), score


@pytest.mark.parametrize("parameterization", ("paper", "code"))
@pytest.mark.parametrize("feedback", ("marginal", "conditional", None))
@pytest.mark.parametrize("beam", (1, 3, 5))
def test_beam_search_equals_a_search_by_whole_prefixes(parameterization, feedback, beam):
    model = make_captioner(parameterization=parameterization, feedback=feedback)
    if parameterization == "code":
        model.scores.from_state.bias.data[0] -= 3  # the end, so that captions have words
    features, image = torch.rand(4, 3, 6), torch.rand(4, 6)
    mask = torch.tensor([[True] * 3, [True, True, False], [True] * 3, [True, False, False]])
    captions, log_probs = beam_search(model, (features, image, mask), beam, 4)
    with torch.no_grad():
        for k, (caption, log_prob) in enumerate(zip(captions, log_probs)):
            inputs = (part[k : k + 1] for part in (features, image, mask))
            expected, score = slow_beam_search(model, tuple(inputs), beam, 4)
            assert caption == expected and abs(float(log_prob) - score) < 1e-4
    if beam > 1:
        assert len({tuple(caption) for caption in captions}) > 1
