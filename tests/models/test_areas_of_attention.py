"""Areas of Attention: derivatives, and masked regions."""

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
