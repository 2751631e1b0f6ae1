"""Tiny models: tokenizer round trips, prompts through the real processors, forward, save and load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature, ProcessorMixin

from vlrft.config import TinyModelConfig
from vlrft.models.tiny import SPECIAL_TOKENS, TAG_TOKENS, TINY_FAMILIES, build_tiny, build_tokenizer, save_tiny
from vlrft.registry import UnknownNameError

QWEN = [family for family in TINY_FAMILIES if family.startswith("qwen")]


def tiny(family: str, **sizes: Any) -> TinyModelConfig:
    defaults: dict[str, Any] = {
        "hidden_size": 64,
        "num_layers": 2,
        "intermediate_size": 128,
        "vision_hidden_size": 64,
        "vision_intermediate_size": 128,
    }
    return TinyModelConfig(family=family, **{**defaults, **sizes})


def noise(seed: int, width: int = 84, height: int = 84) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def inputs_for(processor: ProcessorMixin, *images: Image.Image) -> BatchFeature:
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": "Where is the dot?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=[text], images=list(images) or None, return_tensors="pt")


@pytest.mark.parametrize(
    "text",
    [
        "plain words, (punctuation) and  two  spaces \n\n\ttabs ",
        "héllo e\u0301 中文 🙂 \u200b\x00",
        "<think>12 40</think><answer>[1, 22, 100, 007]</answer>",
        '{"bbox_2d": [0, 99, 123, 4567]}',
        "",
    ],
)
@pytest.mark.parametrize("numbers", [0, 100])
def test_any_text_round_trips(text: str, numbers: int) -> None:
    tokenizer = build_tokenizer(numbers)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_every_byte_has_a_token() -> None:
    tokenizer = build_tokenizer()
    assert len(tokenizer) == 256 + len(SPECIAL_TOKENS) + len(TAG_TOKENS)
    assert len(tokenizer("中")["input_ids"]) == 3


def test_numbers_are_single_tokens_by_longest_match() -> None:
    tokenizer = build_tokenizer(100)
    assert tokenizer.convert_ids_to_tokens(tokenizer("12 40")["input_ids"]) == ["12", "Ġ", "40"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("123")["input_ids"]) == ["12", "3"]
    for number in range(100):
        ids = tokenizer(str(number))["input_ids"]
        assert len(ids) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == str(number)


def test_tags_are_text_and_vision_tokens_are_special() -> None:
    tokenizer = build_tokenizer()
    for tag in TAG_TOKENS:
        ids = tokenizer(tag)["input_ids"]
        assert len(ids) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == tag
    for token in SPECIAL_TOKENS:
        ids = tokenizer(token)["input_ids"]
        assert ids == [tokenizer.convert_tokens_to_ids(token)]
        assert tokenizer.decode(ids, skip_special_tokens=True) == ""
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_internvl_has_its_own_placeholders() -> None:
    _, processor = build_tiny(tiny("internvl"))
    content = [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "Hi"}]
    assert processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True) == (
        "<|im_start|>user\n<IMG_CONTEXT>\n<video>\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_chat_template_is_the_qwen_form() -> None:
    _, processor = build_tiny(tiny("qwen2_5_vl"))
    turns = [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "Hi", "image": None}]},
        {"role": "assistant", "content": "Hello"},
    ]
    body = (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Hi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n"
    )
    assert processor.apply_chat_template(turns) == body
    system = {"role": "system", "content": "Be brief."}
    assert processor.apply_chat_template([system, *turns], add_generation_prompt=True) == (
        f"<|im_start|>system\nBe brief.<|im_end|>\n{body}<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("patch_size", "merge", "size", "tokens"),
    [(14, 2, (84, 84), 9), (14, 2, (28, 28), 1), (14, 2, (448, 448), 256), (16, 2, (64, 96), 6), (14, 3, (84, 84), 4)],
)
@pytest.mark.parametrize("family", QWEN)
def test_image_tokens_follow_patch_and_merge_size(
    family: str, patch_size: int, merge: int, size: tuple[int, int], tokens: int
) -> None:
    model, processor = build_tiny(tiny(family, patch_size=patch_size, spatial_merge_size=merge))
    inputs = inputs_for(processor, noise(0, *size))
    assert (inputs["input_ids"] == model.config.image_token_id).sum().item() == tokens
    assert inputs["pixel_values"].shape == (tokens * merge**2, 3 * 2 * patch_size**2)


@pytest.mark.parametrize(("patch_size", "merge"), [(14, 2), (16, 2), (14, 3)])
def test_internvl_tiles_follow_patch_and_merge_size(patch_size: int, merge: int) -> None:
    model, processor = build_tiny(tiny("internvl", patch_size=patch_size, spatial_merge_size=merge))
    inputs = inputs_for(processor, noise(0, 60, 60), noise(1, 600, 300))
    edge = 4 * merge * patch_size
    # One tile for the first image; columns and rows, and the overview, for the second.
    assert inputs["pixel_values"].shape[1:] == (3, edge, edge)
    assert len(inputs["pixel_values"]) in (1 + 2 + 1, 1 + 8 + 1)
    tokens = (inputs["input_ids"] == model.config.image_token_id).sum().item()
    assert tokens == 16 * len(inputs["pixel_values"])


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_forward_is_finite_and_sees_the_image(family: str) -> None:
    model, processor = build_tiny(tiny(family, number_tokens=20, vocab_size=400))
    first, second = (
        inputs_for(processor, noise(0), noise(1, 56, 140)),
        inputs_for(processor, noise(2), noise(1, 56, 140)),
    )
    with torch.no_grad():
        logits, other = model(**first).logits, model(**second).logits
        text_only = model(**inputs_for(processor)).logits
    assert logits.shape == (1, first["input_ids"].shape[1], 400)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert text_only.isfinite().all()
    assert (logits - other)[0, -1].abs().max() > 1e-3


@pytest.mark.parametrize("family", TINY_FAMILIES)
@pytest.mark.parametrize("layers", [1, 5])
def test_depths_other_than_the_default_work(family: str, layers: int) -> None:
    model, processor = build_tiny(tiny(family, num_layers=layers, vision_layers=layers))
    model.train()
    model(**inputs_for(processor, noise(0, 224, 112))).logits.sum().backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_saved_folder_loads_through_the_auto_classes(family: str, tmp_path: Path) -> None:
    cfg = tiny(family, number_tokens=30)
    model, processor = build_tiny(cfg)
    folder = save_tiny(cfg, tmp_path / "new" / "model")
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    loaded_processor = AutoProcessor.from_pretrained(folder)
    assert type(loaded) is type(model)
    assert type(loaded_processor) is type(processor)
    weights, loaded_weights = model.state_dict(), loaded.state_dict()
    assert weights.keys() == loaded_weights.keys()
    assert all(torch.equal(weights[name], loaded_weights[name]) for name in weights)
    assert loaded.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    inputs, loaded_inputs = inputs_for(processor, noise(0)), inputs_for(loaded_processor, noise(0))
    assert all(torch.equal(inputs[name], loaded_inputs[name]) for name in inputs)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, loaded(**loaded_inputs).logits)
    text = "e\u0301 12 29 30 <answer>"
    assert loaded_processor.tokenizer(text)["input_ids"] == processor.tokenizer(text)["input_ids"]


def test_weights_depend_on_the_init_seed_and_not_on_the_global_rng() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, _ = build_tiny(tiny("qwen2_5_vl", init_seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    same, _ = build_tiny(tiny("qwen2_5_vl", init_seed=3))
    other, _ = build_tiny(tiny("qwen2_5_vl", init_seed=4))
    embedding = first.get_input_embeddings().weight
    assert torch.equal(embedding, same.get_input_embeddings().weight)
    assert not torch.equal(embedding, other.get_input_embeddings().weight)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_embeddings_are_tied(family: str) -> None:
    model, _ = build_tiny(tiny(family))
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 100}, "vocab_size is 100, but the tokenizer has 270 tokens"),
        ({"num_heads": 3}, r"hidden_size \(64\) / num_heads \(3\)"),
        ({"num_kv_heads": 3}, r"num_heads \(4\) must be a multiple of num_kv_heads \(3\)"),
        ({"vision_heads": 5}, r"vision_hidden_size \(64\) must be a multiple of 4 x vision_heads \(5\)"),
        ({"number_tokens": -1}, "number_tokens must not be negative"),
        ({"family": "qwen2_vl", "vision_intermediate_size": 100}, r"qwen2_vl needs vision_intermediate_size \(100\)"),
    ],
)
def test_sizes_that_do_not_fit_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_tiny(tiny(**{"family": "qwen2_5_vl", **change}))


def test_unknown_family_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'qwen2_5_vl'"):
        build_tiny(tiny("qwen2.5_vl"))
