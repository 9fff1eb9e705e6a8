"""Captioners of the Hugging Face hub, each family in miniature: log-probabilities as in the model's forward pass, and
explanations as computed by loops."""

import pytest
import torch
from PIL import Image

transformers = pytest.importorskip("transformers", reason="transformers is not installed: it is the extra [hub]")
from cgsaliency.core.errors import InputError
from cgsaliency.core.geometry import ImageCrop
from cgsaliency.core.protocols import eval_mode
from cgsaliency.explain.registry import compatible_explainers, explain
from cgsaliency.models.check_captioner import protocol_violations
from cgsaliency.models.huggingface import HubCaptioner, infer_crop, load_hub, patch_grid
from hub_models import FAMILIES, POSITIONS, TOKEN_IDS, TOKENS, VISION, blip, tokenizer


@pytest.fixture(scope="module")
def image():
    noise = torch.rand(12, 16, 3, generator=torch.Generator().manual_seed(1))
    return Image.fromarray((noise * 255).byte().numpy()).resize((160, 120))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param, FAMILIES[request.param]()


@torch.no_grad()
def model_log_probs(name, captioner, image, token_ids):
    "Return log p from the model's forward pass, from pixels."
    model, pixels = captioner.model, captioner.processor(images=[image], return_tensors="pt")["pixel_values"]
    if name in ("blip", "git"):
        ids = torch.tensor([[4 if name == "blip" else 2, *token_ids[:-1]]])
    if name == "blip":
        return model(pixel_values=pixels, input_ids=ids).logits.log_softmax(-1)
    if name == "git":
        return model(pixel_values=pixels, input_ids=ids).logits[:, -len(token_ids) :].log_softmax(-1)
    if name == "vit-gpt2":
        return model(pixel_values=pixels, decoder_input_ids=torch.tensor([[4, *token_ids[:-1]]])).logits.log_softmax(-1)
    adapter = captioner.adapter
    ids = [*adapter.ids_before, *[5] * 36, *adapter.ids_after, *token_ids[:-1]]
    return model(pixel_values=pixels, input_ids=torch.tensor([ids])).logits[:, -len(token_ids) :].log_softmax(-1)


def test_captions_and_log_probs_are_those_of_the_model(family, image):
    name, captioner = family
    token_ids, positions = captioner.encode_words(TOKENS)
    assert token_ids.tolist() == TOKEN_IDS and positions.tolist() == POSITIONS
    descriptors = captioner.encode_images([image])
    assert (descriptors.grid.rows, descriptors.grid.columns) == (6, 6) and descriptors.features.shape == (36, 32)
    assert torch.allclose(
        captioner.log_probs(descriptors.hidden_states, token_ids[None]),
        model_log_probs(name, captioner, image, TOKEN_IDS),
        atol=1e-4,
    )
    assert (len(descriptors.hidden_states[0]) == 37) == (name in ("blip", "git", "vit-gpt2"))  # with the class token
    log_probs = captioner.log_probs(descriptors.hidden_states, token_ids[None])
    generated, caption = [], captioner.caption(descriptors)  # greedy search, one word after the other
    with torch.no_grad():
        while len(generated) < 10 and (not generated or generated[-1] != 3):
            generated.append(
                int(captioner.log_probs(descriptors.hidden_states, torch.tensor([[*generated, 0]]))[0, -1].argmax())
            )
    assert caption == captioner.tokenizer.decode(generated, skip_special_tokens=True).split()
    assert torch.isfinite(log_probs).all()


def test_captioners_fulfill_the_protocol(family, image):
    assert protocol_violations(family[1], [image], TOKENS) == []


def test_the_crop_is_that_of_the_processor(family, image):
    view = family[1].encode_images([image]).view
    expected = (
        ImageCrop.full(160, 120, 96)
        if family[0] in ("blip", "vit-gpt2", "smolvlm")
        else ImageCrop(160, 120, 20, 0, 120, 120, 96, 96)
    )
    for name in ("left", "top", "width", "height"):
        assert abs(getattr(view, name) - getattr(expected, name)) < 1.5, (name, view)
    assert (view.input_width, view.input_height) == (96, 96)


def test_cgvs_and_leave_one_out_equal_loops(family, image):
    captioner = family[1]
    descriptors, (token_ids, _) = captioner.encode_images([image]), captioner.encode_words(TOKENS)
    features, n = descriptors.features, torch.arange(len(token_ids))

    def log_p(kept_features):
        return captioner.log_probs(kept_features[None], token_ids[None])[0, n, token_ids]

    with torch.no_grad(), eval_mode(captioner):
        expected_by_method = {
            "cgvs": torch.stack([log_p(feature[None]) for feature in features], 1),
            "leave-one-out": torch.stack(
                [log_p(features) - log_p(torch.cat([features[:i], features[i + 1 :]])) for i in range(len(features))], 1
            ),
        }
    for method, of_tokens in expected_by_method.items():
        maps = explain(method, captioner, descriptors, TOKENS).saliency.view(7, 36)
        expected = torch.cat([of_tokens[:5], of_tokens[5:7].sum(0, keepdim=True), of_tokens[7:]])
        assert torch.allclose(maps, expected, atol=2e-4), method
        assert maps.std(1).min() > 1e-6  # descriptors make a difference
        assert torch.equal(maps, explain(method, captioner, descriptors, TOKENS).saliency.view(7, 36))


def test_attention_is_that_of_the_model(family, image):
    name, captioner = family
    descriptors = captioner.encode_images([image])
    maps = explain("attention", captioner, descriptors, TOKENS).saliency.view(7, 36)
    assert torch.allclose(maps.sum(1), torch.ones(7), atol=1e-4) and (maps >= 0).all()
    with torch.no_grad():
        if name == "blip":
            layers = captioner.model.text_decoder(
                input_ids=torch.tensor([[4, *TOKEN_IDS[:-1]]]),
                encoder_hidden_states=descriptors.features[None],
                output_attentions=True,
            ).cross_attentions
        elif name == "vit-gpt2":
            layers = captioner.model.decoder(
                input_ids=torch.tensor([[4, *TOKEN_IDS[:-1]]]),
                encoder_hidden_states=descriptors.features[None],
                output_attentions=True,
            ).cross_attentions
        else:
            return  # models that read a prefix: only shape and sums are compared
    expected = torch.stack(list(layers)).mean((0, 2))[0]
    assert torch.allclose(maps[:5], expected[:5], atol=1e-5) and torch.allclose(
        maps[5], expected[5:7].mean(0), atol=1e-5
    )


def test_gradients_equal_those_of_a_backward_pass(family, image):
    captioner = family[1]
    assert {"gradient", "grad-cam", "integrated-gradients", "attention", "cgvs", "leave-one-out"} <= set(
        compatible_explainers(captioner)
    )
    descriptors, (token_ids, _) = captioner.encode_images([image]), captioner.encode_words(["a", "red"])
    features = descriptors.features.clone().requires_grad_()
    with eval_mode(captioner):
        captioner.log_probs(features[None], token_ids[None])[0, 1, token_ids[1]].backward()
    gradient = explain("gradient", captioner, descriptors, ["a", "red"]).saliency[1].flatten()
    assert torch.allclose(gradient, features.grad.abs().amax(1), rtol=1e-3, atol=1e-6)
    assert not captioner.training


def test_frames_of_a_video_are_explained_together(family, image):
    captioner = family[1]
    video = captioner.encode_images([image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)], (0.0, 1.0))
    assert video.features.shape == (72, 32) and explain("cgvs", captioner, video, ["red"]).saliency.shape == (
        1,
        2,
        6,
        6,
    )


def test_wrong_input_is_reported(image, tmp_path):
    captioner = blip()
    for tokens, message in (([], "is empty"), (["zebra"], "knows none"), (["red"] * 11, "allows 10")):
        with pytest.raises(InputError, match=message):
            captioner.encode_words(tokens)
    with pytest.raises(InputError, match="no even grid"):
        patch_grid(40, 96, 96)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_hub(str(tmp_path / "nothing"), offline=True)
    padding = transformers.SmolVLMImageProcessorPil(
        size={"longest_edge": 96}, max_image_size={"longest_edge": 48}, do_image_splitting=True
    )
    with pytest.raises(InputError):
        infer_crop(padding, 320, 120)
    with pytest.raises(InputError, match="no family that is known"):
        HubCaptioner(
            transformers.ViTForImageClassification(transformers.ViTConfig(**VISION)), captioner.processor, tokenizer()
        )


def test_loaded_captioners_give_the_same_maps(family, image, tmp_path):
    name, captioner = family
    for component in (captioner.model, captioner.processor, captioner.tokenizer):
        component.save_pretrained(tmp_path)
    loaded = load_hub(str(tmp_path), offline=True)
    original, of_loaded = (
        explain("cgvs", model, model.encode_images([image]), TOKENS) for model in (captioner, loaded)
    )
    assert torch.allclose(original.saliency, of_loaded.saliency, atol=1e-6) and torch.allclose(
        explain("attention", loaded, loaded.encode_images([image]), TOKENS).saliency.sum((1, 2, 3)),
        torch.ones(7),
        atol=1e-4,
    )
