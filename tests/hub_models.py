"""Captioners of the Hugging Face hub, each family in miniature. Needs transformers."""

import os

import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import transformers  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers

from cgsaliency.models.huggingface import HubCaptioner

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [BOS] <image> a red ball on green grass ##land ."
    " user describe the image in one sentence".split()
)
TOKENS, TOKEN_IDS, POSITIONS = (
    "a red ball on green grassland .".split(),
    [6, 7, 8, 9, 10, 11, 12, 13],
    [0, 1, 2, 3, 4, 5, 5, 6],
)
VISION = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=96, patch_size=16
)
TEXT = dict(
    vocab_size=len(WORDS),
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=128,
    bos_token_id=4,
    eos_token_id=3,
    pad_token_id=0,
)


def tokenizer():
    word_piece = Tokenizer(models.WordPiece({word: k for k, word in enumerate(WORDS)}, unk_token="[UNK]"))
    word_piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=word_piece,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        bos_token="[BOS]",
        eos_token="[SEP]",
        additional_special_tokens=["<image>"],
    )


def make_captioner(model, processor):
    "Return the captioner, with weights large enough that descriptors make a difference."
    torch.manual_seed(0)
    for _, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    # these two have no other implementation
    if model.config.model_type not in ("blip", "git"):
        model.set_attn_implementation("eager")
    return HubCaptioner(model, processor, tokenizer(), max_words=10).eval()


def blip():
    config = transformers.BlipConfig(
        text_config={**TEXT, "encoder_hidden_size": 32, "sep_token_id": 3}, vision_config=VISION
    )
    return make_captioner(
        transformers.BlipForConditionalGeneration(config),
        transformers.BlipImageProcessorPil(size={"height": 96, "width": 96}),
    )


def git():
    config = transformers.GitConfig(vision_config=VISION, **TEXT)
    return make_captioner(
        transformers.GitForCausalLM(config),
        transformers.CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96}),
    )


def vit_gpt2():
    decoder = transformers.GPT2Config(
        vocab_size=len(WORDS),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        bos_token_id=4,
        eos_token_id=3,
        pad_token_id=0,
        add_cross_attention=True,
        is_decoder=True,
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**VISION), decoder, decoder_start_token_id=4, pad_token_id=0, eos_token_id=3
    )
    return make_captioner(
        transformers.VisionEncoderDecoderModel(config=config),
        transformers.ViTImageProcessorPil(size={"height": 96, "width": 96}),
    )


def smolvlm():
    config = transformers.SmolVLMConfig(
        vision_config={**VISION, "model_type": "smolvlm_vision", "patch_size": 8},
        text_config={**TEXT, "model_type": "llama", "num_key_value_heads": 4},
        image_token_id=5,
        scale_factor=2,
        pad_token_id=0,
    )
    processor = transformers.SmolVLMImageProcessorPil(
        size={"longest_edge": 96}, max_image_size={"longest_edge": 96}, do_image_splitting=False
    )
    return make_captioner(transformers.SmolVLMForConditionalGeneration(config), processor)


def llava():
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_id=5,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return make_captioner(
        transformers.LlavaForConditionalGeneration(config),
        transformers.CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96}),
    )


FAMILIES = {"blip": blip, "git": git, "vit-gpt2": vit_gpt2, "smolvlm": smolvlm, "llava": llava}
