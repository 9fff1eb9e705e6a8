"""Captioners of the hub, each family in miniature: the same numbers as the model's own forward pass, and explanations as the slow way makes them."""
import os

import pytest
import torch
from PIL import Image

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: it is the extra [hub]")
from tokenizers import Tokenizer, models, pre_tokenizers

from cgsaliency.core.contracts import at_rest
from cgsaliency.core.errors import BadInput
from cgsaliency.core.geometry import View
from cgsaliency.explain.methods import explained_by, fitting
from cgsaliency.models.checking import faults_of
from cgsaliency.models.hub import HubCaptioner, load_hub, measured_view, side_cells

WORDS = "[PAD] [UNK] [CLS] [SEP] [BOS] <image> a red ball on green grass ##land . user describe the picture in one sentence".split()
TOKENS, PIECES, PLACES = "a red ball on green grassland .".split(), [6, 7, 8, 9, 10, 11, 12, 13], [0, 1, 2, 3, 4, 5, 5, 6]
VISION = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=96, patch_size=16)
TEXT = dict(vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128, bos_token_id=4, eos_token_id=3, pad_token_id=0)


def tokenizer():
    own = Tokenizer(models.WordPiece({word: k for k, word in enumerate(WORDS)}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=own, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", bos_token="[BOS]", eos_token="[SEP]", additional_special_tokens=["<image>"])


def made(model, processor):
    "The captioner, with weights large enough that descriptors make a difference."
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1: torch.nn.init.normal_(parameter, std=0.2)
    if model.config.model_type not in ("blip", "git"): model.set_attn_implementation("eager")      # those two have no other
    return HubCaptioner(model, processor, tokenizer(), max_words=10).eval()


def blip():
    config = transformers.BlipConfig(text_config={**TEXT, "encoder_hidden_size": 32, "sep_token_id": 3}, vision_config=VISION)
    return made(transformers.BlipForConditionalGeneration(config), transformers.BlipImageProcessorPil(size={"height": 96, "width": 96}))


def git():
    config = transformers.GitConfig(vision_config=VISION, **TEXT)
    return made(transformers.GitForCausalLM(config), transformers.CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96}))


def vit_gpt2():
    decoder = transformers.GPT2Config(vocab_size=len(WORDS), n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=4, eos_token_id=3, pad_token_id=0, add_cross_attention=True, is_decoder=True)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(transformers.ViTConfig(**VISION), decoder, decoder_start_token_id=4, pad_token_id=0, eos_token_id=3)
    return made(transformers.VisionEncoderDecoderModel(config=config), transformers.ViTImageProcessorPil(size={"height": 96, "width": 96}))


def smolvlm():
    config = transformers.SmolVLMConfig(vision_config={**VISION, "model_type": "smolvlm_vision", "patch_size": 8}, text_config={**TEXT, "model_type": "llama", "num_key_value_heads": 4}, image_token_id=5, scale_factor=2, pad_token_id=0)
    processor = transformers.SmolVLMImageProcessorPil(size={"longest_edge": 96}, max_image_size={"longest_edge": 96}, do_image_splitting=False)
    return made(transformers.SmolVLMForConditionalGeneration(config), processor)


def llava():
    config = transformers.LlavaConfig(vision_config=transformers.CLIPVisionConfig(**VISION), text_config=transformers.LlamaConfig(**TEXT), image_token_id=5, vision_feature_layer=-2, vision_feature_select_strategy="default")
    return made(transformers.LlavaForConditionalGeneration(config), transformers.CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96}))


FAMILIES = {"blip": blip, "git": git, "vit-gpt2": vit_gpt2, "smolvlm": smolvlm, "llava": llava}


@pytest.fixture(scope="module")
def picture():
    noise = torch.rand(12, 16, 3, generator=torch.Generator().manual_seed(1))
    return Image.fromarray((noise * 255).byte().numpy()).resize((160, 120))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request): return request.param, FAMILIES[request.param]()


@torch.no_grad()
def own_forward(name, captioner, picture, words):
    "log p as the model itself gives it, from pixels."
    model, pixels = captioner.model, captioner.processor(images=[picture], return_tensors="pt")["pixel_values"]
    if name in ("blip", "git"): ids = torch.tensor([[4 if name == "blip" else 2, *words[:-1]]])
    if name == "blip": return model(pixel_values=pixels, input_ids=ids).logits.log_softmax(-1)
    if name == "git": return model(pixel_values=pixels, input_ids=ids).logits[:, -len(words):].log_softmax(-1)
    if name == "vit-gpt2": return model(pixel_values=pixels, decoder_input_ids=torch.tensor([[4, *words[:-1]]])).logits.log_softmax(-1)
    reading = captioner.reading
    ids = [*reading.before, *[5] * 36, *reading.after, *words[:-1]]
    return model(pixel_values=pixels, input_ids=torch.tensor([ids])).logits[:, -len(words):].log_softmax(-1)


def test_it_says_and_weighs_what_the_model_itself_does(family, picture):
    name, captioner = family
    words, places = captioner.encode_words(TOKENS)
    assert words.tolist() == PIECES and places.tolist() == PLACES
    descriptors = captioner.describe([picture])
    assert (descriptors.grid.rows, descriptors.grid.columns) == (6, 6) and descriptors.values.shape == (36, 32)
    assert torch.allclose(captioner.log_probs(descriptors.everything, words[None]), own_forward(name, captioner, picture, PIECES), atol=1e-4)
    assert (len(descriptors.everything[0]) == 37) == (name in ("blip", "git", "vit-gpt2"))      # with the class token
    logs = captioner.log_probs(descriptors.everything, words[None])
    step, said = [], captioner.caption(descriptors)                  # greedy, by asking for one word after the other
    with torch.no_grad():
        while len(step) < 10 and (not step or step[-1] != 3): step.append(int(captioner.log_probs(descriptors.everything, torch.tensor([[*step, 0]]))[0, -1].argmax()))
    assert said == captioner.tokenizer.decode(step, skip_special_tokens=True).split()
    assert torch.isfinite(logs).all()


def test_it_is_a_captioner_without_faults(family, picture): assert faults_of(family[1], [picture], TOKENS) == []


def test_where_the_input_lies(family, picture):
    view = family[1].describe([picture]).view
    expected = View.whole(160, 120, 96) if family[0] in ("blip", "vit-gpt2", "smolvlm") else View(160, 120, 20, 0, 120, 120, 96, 96)
    for part in ("left", "top", "width", "height"): assert abs(getattr(view, part) - getattr(expected, part)) < 1.5, (part, view)
    assert (view.input_width, view.input_height) == (96, 96)


def test_cgvs_and_left_out_are_what_a_loop_finds(family, picture):
    captioner = family[1]
    descriptors, (words, places) = captioner.describe([picture]), captioner.encode_words(TOKENS)
    values, n = descriptors.values, torch.arange(len(words))
    def log_p(some): return captioner.log_probs(some[None], words[None])[0, n, words]
    with torch.no_grad(), at_rest(captioner):
        slow = {"cgvs": torch.stack([log_p(value[None]) for value in values], 1),
                "left-out": torch.stack([log_p(values) - log_p(torch.cat([values[:i], values[i + 1:]])) for i in range(len(values))], 1)}
    for method, pieces in slow.items():
        found = explained_by(method, captioner, descriptors, TOKENS).saliency.view(7, 36)
        expected = torch.cat([pieces[:5], pieces[5:7].sum(0, keepdim=True), pieces[7:]])
        assert torch.allclose(found, expected, atol=2e-4), method
        assert found.std(1).min() > 1e-6            # descriptors do make a difference
        assert torch.equal(found, explained_by(method, captioner, descriptors, TOKENS).saliency.view(7, 36))


def test_attention_is_the_models_own(family, picture):
    name, captioner = family
    descriptors, (words, _) = captioner.describe([picture]), captioner.encode_words(TOKENS)
    found = explained_by("attention", captioner, descriptors, TOKENS).saliency.view(7, 36)
    assert torch.allclose(found.sum(1), torch.ones(7), atol=1e-4) and (found >= 0).all()
    with torch.no_grad():
        if name == "blip": layers = captioner.model.text_decoder(input_ids=torch.tensor([[4, *PIECES[:-1]]]), encoder_hidden_states=descriptors.values[None], output_attentions=True).cross_attentions
        elif name == "vit-gpt2": layers = captioner.model.decoder(input_ids=torch.tensor([[4, *PIECES[:-1]]]), encoder_hidden_states=descriptors.values[None], output_attentions=True).cross_attentions
        else: return                               # those that read a prefix are compared in shape and sum alone
    expected = torch.stack(list(layers)).mean((0, 2))[0]
    assert torch.allclose(found[:5], expected[:5], atol=1e-5) and torch.allclose(found[5], expected[5:7].mean(0), atol=1e-5)


def test_a_gradient_is_the_slope(family, picture):
    captioner = family[1]
    assert {"gradient", "grad-cam", "integrated-gradients", "attention", "cgvs", "left-out"} <= set(fitting(captioner))
    descriptors, (words, _) = captioner.describe([picture]), captioner.encode_words(["a", "red"])
    values = descriptors.values.clone().requires_grad_()
    with at_rest(captioner): captioner.log_probs(values[None], words[None])[0, 1, words[1]].backward()
    found = explained_by("gradient", captioner, descriptors, ["a", "red"]).saliency[1].flatten()
    assert torch.allclose(found, values.grad.abs().amax(1), rtol=1e-3, atol=1e-6)
    assert not captioner.training


def test_several_frames_are_one_large_picture(family, picture):
    captioner = family[1]
    film = captioner.describe([picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)], (0.0, 1.0))
    assert film.values.shape == (72, 32) and explained_by("cgvs", captioner, film, ["red"]).saliency.shape == (1, 2, 6, 6)


def test_bad_input_is_named(picture, tmp_path):
    captioner = blip()
    for tokens, says in (([], "is empty"), (["zebra"], "knows none"), (["red"] * 11, "allows 10")):
        with pytest.raises(BadInput, match=says): captioner.encode_words(tokens)
    with pytest.raises(BadInput, match="no even grid"): side_cells(40, 96, 96)
    with pytest.raises(BadInput, match="cannot be loaded"): load_hub(str(tmp_path / "nothing"), offline=True)
    padding = transformers.SmolVLMImageProcessorPil(size={"longest_edge": 96}, max_image_size={"longest_edge": 48}, do_image_splitting=True)
    with pytest.raises(BadInput): measured_view(padding, 320, 120)
    with pytest.raises(BadInput, match="no family that is known"): HubCaptioner(transformers.ViTForImageClassification(transformers.ViTConfig(**VISION)), captioner.processor, tokenizer())


def test_saved_and_loaded_by_name(family, picture, tmp_path):
    name, captioner = family
    for part in (captioner.model, captioner.processor, captioner.tokenizer): part.save_pretrained(tmp_path)
    again = load_hub(str(tmp_path), offline=True)
    one, other = (explained_by("cgvs", own, own.describe([picture]), TOKENS) for own in (captioner, again))
    assert torch.allclose(one.saliency, other.saliency, atol=1e-6) and torch.allclose(explained_by("attention", again, again.describe([picture]), TOKENS).saliency.sum((1, 2, 3)), torch.ones(7), atol=1e-4)
