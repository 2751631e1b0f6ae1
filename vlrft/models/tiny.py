"""Tiny randomly initialised Qwen-VL models, built offline: config, byte-level tokenizer, processor, chat template.

They have the architecture and the processor classes of the published models, so every code path of a 7B run also runs
on a laptop; only sizes and weights differ. A folder from `save_tiny` loads through `AutoModelForImageTextToText` and
`AutoProcessor` like any downloaded model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from vlrft.config import TinyModelConfig
from vlrft.models.chat_template import CHAT_TEMPLATE
from vlrft.registry import resolve

PAD_TOKEN = "<|endoftext|>"
EOS_TOKEN = "<|im_end|>"
SPECIAL_TOKENS = (
    PAD_TOKEN,
    "<|im_start|>",
    EOS_TOKEN,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|box_start|>",
    "<|box_end|>",
)
"""Dropped by `decode(skip_special_tokens=True)`."""
TAG_TOKENS = ("<think>", "</think>", "<answer>", "</answer>")
"""Single tokens that are text: decoding keeps them."""

TEMPORAL_PATCH_SIZE = 2
POSITION_GRID = 16
"""Edge of Qwen3-VL's learned position grid, interpolated to the image's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyFamily:
    """What a family needs to be built small: its configs and its processor classes."""

    config_class: str
    """Class in `transformers`; `sub_configs` of it holds the text and vision config classes."""
    text_config: Callable[[TinyModelConfig], dict[str, Any]]
    vision_config: Callable[[TinyModelConfig], dict[str, Any]]
    processor_class: str
    video_processor_class: str
    pixel_stats: Mapping[str, list[float]]
    """`image_mean` and `image_std` where they differ from the image processor's own."""


def build_tiny(cfg: TinyModelConfig, *, device: str | torch.device = "cpu") -> tuple[PreTrainedModel, ProcessorMixin]:
    """A randomly initialised fp32 model in eval mode and its processor.

    Weights depend on `cfg` (with `cfg.init_seed`) alone: the global torch random state is neither used nor changed.
    Raises ValueError naming the key when sizes do not fit each other, and UnknownNameError for an unknown family.
    """
    family: TinyFamily = resolve(cfg.family, TINY_FAMILIES, kind="tiny model family")
    check_sizes(cfg)
    tokenizer = build_tokenizer(cfg.number_tokens)
    config = build_config(cfg, family, tokenizer)
    with torch.random.fork_rng(devices=[]):
        # Only the CPU generator: torch.manual_seed would reseed the accelerators as well.
        torch.default_generator.manual_seed(cfg.init_seed)
        auto: Any = transformers.AutoModelForImageTextToText
        model: Any = auto.from_config(config, dtype=torch.float32)
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model.eval().to(device), build_processor(cfg, family, tokenizer)


def save_tiny(cfg: TinyModelConfig, folder: str | Path) -> Path:
    """Write model, tokenizer, processor and chat template of `build_tiny(cfg)` into `folder`; returns its path."""
    folder = Path(folder)
    model, processor = build_tiny(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def check_sizes(cfg: TinyModelConfig) -> None:
    """Raise ValueError when sizes of `cfg` cannot make a working model."""

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise ValueError(f"model.tiny: {message}")

    require(
        cfg.hidden_size % (2 * cfg.num_heads) == 0 and cfg.hidden_size // cfg.num_heads >= 8,
        f"hidden_size ({cfg.hidden_size}) / num_heads ({cfg.num_heads}) must be an even number of at least 8",
    )
    require(
        cfg.num_heads % cfg.num_kv_heads == 0,
        f"num_heads ({cfg.num_heads}) must be a multiple of num_kv_heads ({cfg.num_kv_heads})",
    )
    require(
        cfg.vision_hidden_size % (4 * cfg.vision_heads) == 0,
        f"vision_hidden_size ({cfg.vision_hidden_size}) must be a multiple of 4 x vision_heads ({cfg.vision_heads})",
    )
    require(
        cfg.family != "qwen2_vl" or cfg.vision_intermediate_size % cfg.vision_hidden_size == 0,
        f"qwen2_vl needs vision_intermediate_size ({cfg.vision_intermediate_size}) to be a multiple of "
        f"vision_hidden_size ({cfg.vision_hidden_size})",
    )
    require(cfg.number_tokens >= 0, f"number_tokens must not be negative, got {cfg.number_tokens}")


def build_tokenizer(number_tokens: int = 0) -> PreTrainedTokenizerFast:
    """Byte-level tokenizer without merges: every text round-trips, one token per UTF-8 byte, plus the added tokens.

    Integers 0..number_tokens-1 are single tokens (longest match from the left: "123" is "12", "3" with 100 of them).
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    text_tokens = [*TAG_TOKENS, *(str(number) for number in range(number_tokens))]
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in text_tokens])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        additional_special_tokens=[token for token in SPECIAL_TOKENS if token not in (EOS_TOKEN, PAD_TOKEN)],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def build_config(cfg: TinyModelConfig, family: TinyFamily, tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    """The transformers config of a tiny model. Raises ValueError when `cfg.vocab_size` cannot hold the tokenizer."""
    vocab_size = cfg.vocab_size if cfg.vocab_size is not None else len(tokenizer)
    if vocab_size < len(tokenizer):
        raise ValueError(
            f"model.tiny.vocab_size is {vocab_size}, but the tokenizer has {len(tokenizer)} tokens "
            f"({cfg.number_tokens} of them numbers): raise vocab_size, or leave it out to fit the tokenizer"
        )
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text = {
        **family.text_config(cfg),
        "vocab_size": vocab_size,
        "hidden_size": cfg.hidden_size,
        "intermediate_size": cfg.intermediate_size,
        "num_hidden_layers": cfg.num_layers,
        "num_attention_heads": cfg.num_heads,
        "num_key_value_heads": cfg.num_kv_heads,
        "bos_token_id": None,
        "eos_token_id": ids[EOS_TOKEN],
        "pad_token_id": ids[PAD_TOKEN],
        "tie_word_embeddings": True,
    }
    vision = {
        **family.vision_config(cfg),
        "depth": cfg.vision_layers,
        "num_heads": cfg.vision_heads,
        "patch_size": cfg.patch_size,
        "spatial_merge_size": cfg.spatial_merge_size,
        "temporal_patch_size": TEMPORAL_PATCH_SIZE,
    }
    config_class = getattr(transformers, family.config_class)
    config: PretrainedConfig = config_class(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    return config


def build_processor(cfg: TinyModelConfig, family: TinyFamily, tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    """The family's own processor: an image of one merged patch up to 1280 of them passes without rescaling."""
    token_pixels = (cfg.patch_size * cfg.spatial_merge_size) ** 2
    shared = {
        "patch_size": cfg.patch_size,
        "merge_size": cfg.spatial_merge_size,
        "temporal_patch_size": TEMPORAL_PATCH_SIZE,
        **family.pixel_stats,
    }
    images = transformers.Qwen2VLImageProcessor(
        size={"shortest_edge": token_pixels, "longest_edge": 1280 * token_pixels}, **shared
    )
    videos = getattr(transformers, family.video_processor_class)(
        size={"shortest_edge": token_pixels, "longest_edge": 768 * token_pixels}, cap_pixels_per_frame=True, **shared
    )
    processor: ProcessorMixin = getattr(transformers, family.processor_class)(
        image_processor=images, tokenizer=tokenizer, video_processor=videos, chat_template=CHAT_TEMPLATE
    )
    return processor


def _chunked_rope(cfg: TinyModelConfig) -> dict[str, Any]:
    half = cfg.hidden_size // cfg.num_heads // 2
    time = half // 4
    height = (half - time) // 2
    sections = [time, height, half - time - height]
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}}


def _interleaved_rope(cfg: TinyModelConfig) -> dict[str, Any]:
    head_dim = cfg.hidden_size // cfg.num_heads
    third = head_dim // 2 // 3
    rope = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [head_dim // 2 - 2 * third, third, third],
        "mrope_interleaved": True,
    }
    return {"rope_parameters": rope, "head_dim": head_dim}


def _qwen2_vision(cfg: TinyModelConfig) -> dict[str, Any]:
    return {
        "embed_dim": cfg.vision_hidden_size,
        "hidden_size": cfg.hidden_size,
        "mlp_ratio": cfg.vision_intermediate_size // cfg.vision_hidden_size,
    }


def _qwen2_5_vision(cfg: TinyModelConfig) -> dict[str, Any]:
    last = cfg.vision_layers - 1
    return {
        "hidden_size": cfg.vision_hidden_size,
        "intermediate_size": cfg.vision_intermediate_size,
        "out_hidden_size": cfg.hidden_size,
        # As in the published models: windows of 4x4 merged patches, full attention in every fourth and the last layer.
        "window_size": 4 * cfg.spatial_merge_size * cfg.patch_size,
        "fullatt_block_indexes": sorted({*range(3, last, 4), last}),
    }


def _qwen3_vision(cfg: TinyModelConfig) -> dict[str, Any]:
    layers = cfg.vision_layers
    taps = sorted({layers // 4, layers // 2, 3 * layers // 4})
    return {
        "hidden_size": cfg.vision_hidden_size,
        "intermediate_size": cfg.vision_intermediate_size,
        "out_hidden_size": cfg.hidden_size,
        "num_position_embeddings": POSITION_GRID**2,
        # Tap k is added after language layer k, so there can be no more taps than language layers.
        "deepstack_visual_indexes": taps[: cfg.num_layers],
    }


TINY_FAMILIES: Mapping[str, TinyFamily] = {
    "qwen2_vl": TinyFamily(
        config_class="Qwen2VLConfig",
        text_config=_chunked_rope,
        vision_config=_qwen2_vision,
        processor_class="Qwen2VLProcessor",
        video_processor_class="Qwen2VLVideoProcessor",
        pixel_stats={},
    ),
    "qwen2_5_vl": TinyFamily(
        config_class="Qwen2_5_VLConfig",
        text_config=_chunked_rope,
        vision_config=_qwen2_5_vision,
        processor_class="Qwen2_5_VLProcessor",
        video_processor_class="Qwen2VLVideoProcessor",
        pixel_stats={},
    ),
    "qwen3_vl": TinyFamily(
        config_class="Qwen3VLConfig",
        text_config=_interleaved_rope,
        vision_config=_qwen3_vision,
        processor_class="Qwen3VLProcessor",
        video_processor_class="Qwen3VLVideoProcessor",
        pixel_stats={"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
    ),
}
"""Families that can be built small, by the config's `model_type`."""
