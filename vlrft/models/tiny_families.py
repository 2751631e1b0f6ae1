"""What each family needs to be built small: configs, processor, special tokens, chat template."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers
from transformers import PretrainedConfig, PreTrainedTokenizerFast, ProcessorMixin

from vlrft.config import TinyModelConfig
from vlrft.models.chat_template import chat_template

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
"""Of the Qwen-VL families; dropped by `decode(skip_special_tokens=True)`."""
INTERNVL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
"""By the names under which InternVL's processor asks its tokenizer for them."""

TEMPORAL_PATCH_SIZE = 2
POSITION_GRID = 16
"""Edge of Qwen3-VL's learned position grid, interpolated to the image's."""
TILE_TOKENS = 16
"""Tokens of one InternVL tile (256 in the published models)."""

Processor = Callable[[TinyModelConfig, PreTrainedTokenizerFast, str], ProcessorMixin]


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyFamily:
    """How a family is built small."""

    config_class: str
    """Class in `transformers`."""
    text_config: Callable[[TinyModelConfig], dict[str, Any]]
    vision_config: Callable[[TinyModelConfig], dict[str, Any]]
    joint: Callable[[TinyModelConfig, Mapping[str, int]], dict[str, Any]]
    """Keys of the config outside the two parts, from the ids of all special tokens."""
    processor: Processor
    special_tokens: tuple[str, ...] = SPECIAL_TOKENS
    named_tokens: Mapping[str, str] = field(default_factory=dict)
    """Special tokens that the tokenizer offers as attributes."""
    image_slot: str = "<|vision_start|><|image_pad|><|vision_end|>"
    """What the chat template writes for an image."""
    video_slot: str = "<|vision_start|><|video_pad|><|vision_end|>"

    def config(self, cfg: TinyModelConfig, text: Mapping[str, Any], ids: Mapping[str, int]) -> PretrainedConfig:
        """`text`: what every family's language model is told; `ids`: of the special tokens."""
        config: PretrainedConfig = getattr(transformers, self.config_class)(
            text_config={**self.text_config(cfg), **text},
            vision_config=self.vision_config(cfg),
            tie_word_embeddings=True,
            **self.joint(cfg, ids),
        )
        return config

    def build_processor(self, cfg: TinyModelConfig, tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
        """The family's own processor classes, with its chat template."""
        return self.processor(cfg, tokenizer, chat_template(image=self.image_slot, video=self.video_slot))


def _qwen_processor(name: str, videos: str, **pixel_stats: list[float]) -> Processor:
    """An image of one merged patch up to 1280 of them passes without rescaling."""

    def build(cfg: TinyModelConfig, tokenizer: PreTrainedTokenizerFast, template: str) -> ProcessorMixin:
        token_pixels = (cfg.patch_size * cfg.spatial_merge_size) ** 2
        shared = {
            "patch_size": cfg.patch_size,
            "merge_size": cfg.spatial_merge_size,
            "temporal_patch_size": TEMPORAL_PATCH_SIZE,
            **pixel_stats,
        }
        image_processor = transformers.Qwen2VLImageProcessor(
            size={"shortest_edge": token_pixels, "longest_edge": 1280 * token_pixels}, **shared
        )
        video_processor = getattr(transformers, videos)(
            size={"shortest_edge": token_pixels, "longest_edge": 768 * token_pixels},
            cap_pixels_per_frame=True,
            **shared,
        )
        processor: ProcessorMixin = getattr(transformers, name)(
            image_processor=image_processor,
            tokenizer=tokenizer,
            video_processor=video_processor,
            chat_template=template,
        )
        return processor

    return build


def _internvl_processor(cfg: TinyModelConfig, tokenizer: PreTrainedTokenizerFast, template: str) -> ProcessorMixin:
    size = {"height": _tile(cfg), "width": _tile(cfg)}
    processor: ProcessorMixin = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=transformers.InternVLVideoProcessor(size=size),
        image_seq_length=TILE_TOKENS,
        chat_template=template,
    )
    return processor


def _tile(cfg: TinyModelConfig) -> int:
    """Edge of a tile in pixels: a square of TILE_TOKENS tokens."""
    return int(TILE_TOKENS**0.5) * cfg.spatial_merge_size * cfg.patch_size


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


def _plain_rope(cfg: TinyModelConfig) -> dict[str, Any]:
    return {"model_type": "qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}


def _qwen_vision(cfg: TinyModelConfig) -> dict[str, Any]:
    return {
        "depth": cfg.vision_layers,
        "num_heads": cfg.vision_heads,
        "patch_size": cfg.patch_size,
        "spatial_merge_size": cfg.spatial_merge_size,
        "temporal_patch_size": TEMPORAL_PATCH_SIZE,
    }


def _qwen2_vision(cfg: TinyModelConfig) -> dict[str, Any]:
    return {
        **_qwen_vision(cfg),
        "embed_dim": cfg.vision_hidden_size,
        "hidden_size": cfg.hidden_size,
        "mlp_ratio": cfg.vision_intermediate_size // cfg.vision_hidden_size,
    }


def _qwen2_5_vision(cfg: TinyModelConfig) -> dict[str, Any]:
    last = cfg.vision_layers - 1
    return {
        **_qwen_vision(cfg),
        "hidden_size": cfg.vision_hidden_size,
        "intermediate_size": cfg.vision_intermediate_size,
        "out_hidden_size": cfg.hidden_size,
        # As in the published models: windows of 4x4 merged patches, full attention in every fourth and the last layer.
        "window_size": 4 * cfg.spatial_merge_size * cfg.patch_size,
        "fullatt_block_indexes": sorted({*range(3, last, 4), last}),
        # The class default is 4, the published models have 2.
        "tokens_per_second": 2,
    }


def _qwen3_vision(cfg: TinyModelConfig) -> dict[str, Any]:
    layers = cfg.vision_layers
    taps = sorted({layers // 4, layers // 2, 3 * layers // 4})
    return {
        **_qwen_vision(cfg),
        "hidden_size": cfg.vision_hidden_size,
        "intermediate_size": cfg.vision_intermediate_size,
        "out_hidden_size": cfg.hidden_size,
        "num_position_embeddings": POSITION_GRID**2,
        # Tap k is added after language layer k, so there can be no more taps than language layers.
        "deepstack_visual_indexes": taps[: cfg.num_layers],
    }


def _internvl_vision(cfg: TinyModelConfig) -> dict[str, Any]:
    return {
        "hidden_size": cfg.vision_hidden_size,
        "intermediate_size": cfg.vision_intermediate_size,
        "num_hidden_layers": cfg.vision_layers,
        "num_attention_heads": cfg.vision_heads,
        "attention_bias": True,
        "patch_size": cfg.patch_size,
        "image_size": _tile(cfg),
    }


def _qwen_joint(cfg: TinyModelConfig, ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def _internvl_joint(cfg: TinyModelConfig, ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "image_token_id": ids[INTERNVL_TOKENS["context_image_token"]],
        "image_seq_length": TILE_TOKENS,
        "downsample_ratio": 1 / cfg.spatial_merge_size,
    }


_HALF = [0.5, 0.5, 0.5]

TINY_FAMILIES: Mapping[str, TinyFamily] = {
    "qwen2_vl": TinyFamily(
        config_class="Qwen2VLConfig",
        text_config=_chunked_rope,
        vision_config=_qwen2_vision,
        joint=_qwen_joint,
        processor=_qwen_processor("Qwen2VLProcessor", "Qwen2VLVideoProcessor"),
    ),
    "qwen2_5_vl": TinyFamily(
        config_class="Qwen2_5_VLConfig",
        text_config=_chunked_rope,
        vision_config=_qwen2_5_vision,
        joint=_qwen_joint,
        processor=_qwen_processor("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
    ),
    "qwen3_vl": TinyFamily(
        config_class="Qwen3VLConfig",
        text_config=_interleaved_rope,
        vision_config=_qwen3_vision,
        joint=_qwen_joint,
        processor=_qwen_processor("Qwen3VLProcessor", "Qwen3VLVideoProcessor", image_mean=_HALF, image_std=_HALF),
    ),
    "internvl": TinyFamily(
        config_class="InternVLConfig",
        text_config=_plain_rope,
        vision_config=_internvl_vision,
        joint=_internvl_joint,
        processor=_internvl_processor,
        special_tokens=(PAD_TOKEN, "<|im_start|>", EOS_TOKEN, *INTERNVL_TOKENS.values(), "<box>", "</box>"),
        named_tokens=INTERNVL_TOKENS,
        image_slot="<IMG_CONTEXT>\n",
        video_slot="<video>\n",
    ),
}
"""Families that can be built small, by the config's `model_type`."""
