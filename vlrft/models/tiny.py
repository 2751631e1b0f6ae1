"""Tiny randomly initialised models, built offline: config, byte-level tokenizer, processor, chat template.

They have the architecture and the processor classes of the published models, so every code path of a 7B run also runs
on a laptop; only sizes and weights differ. A folder from `save_tiny` loads through `AutoModelForImageTextToText` and
`AutoProcessor` like any downloaded model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from vlrft.config import TinyModelConfig
from vlrft.models.tiny_families import EOS_TOKEN, PAD_TOKEN, SPECIAL_TOKENS, TINY_FAMILIES, TinyFamily
from vlrft.registry import resolve

TAG_TOKENS = ("<think>", "</think>", "<answer>", "</answer>")
"""Single tokens that are text: decoding keeps them."""


def build_tiny(cfg: TinyModelConfig, *, device: str | torch.device = "cpu") -> tuple[PreTrainedModel, ProcessorMixin]:
    """A randomly initialised fp32 model in eval mode and its processor.

    Weights depend on `cfg` (with `cfg.init_seed`) alone: the global torch random state is neither used nor changed.
    Raises ValueError naming the key when sizes do not fit each other, and UnknownNameError for an unknown family.
    """
    family: TinyFamily = resolve(cfg.family, TINY_FAMILIES, kind="tiny model family")
    check_sizes(cfg)
    tokenizer = build_tokenizer(cfg.number_tokens, family.special_tokens, family.named_tokens)
    config = build_config(cfg, family, tokenizer)
    with torch.random.fork_rng(devices=[]):
        # Only the CPU generator: torch.manual_seed would reseed the accelerators as well.
        torch.default_generator.manual_seed(cfg.init_seed)
        auto: Any = transformers.AutoModelForImageTextToText
        model: Any = auto.from_config(config, dtype=torch.float32)
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model.eval().to(device), family.build_processor(cfg, tokenizer)


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


def build_tokenizer(
    number_tokens: int = 0, special_tokens: Sequence[str] = SPECIAL_TOKENS, named: Mapping[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """Byte-level tokenizer without merges: every text round-trips, one token per UTF-8 byte, plus the added tokens.

    Integers 0..number_tokens-1 are single tokens (longest match from the left: "123" is "12", "3" with 100 of them).
    `named`: attributes of the tokenizer that hold special tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    text_tokens = [*TAG_TOKENS, *(str(number) for number in range(number_tokens))]
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in text_tokens])
    others = [token for token in special_tokens if token not in (EOS_TOKEN, PAD_TOKEN, *(named or {}).values())]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        additional_special_tokens=others,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        **({"extra_special_tokens": dict(named)} if named else {}),
    )


def build_config(cfg: TinyModelConfig, family: TinyFamily, tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    """The transformers config of a tiny model. Raises ValueError when `cfg.vocab_size` cannot hold the tokenizer."""
    vocab_size = cfg.vocab_size if cfg.vocab_size is not None else len(tokenizer)
    if vocab_size < len(tokenizer):
        raise ValueError(
            f"model.tiny.vocab_size is {vocab_size}, but the tokenizer has {len(tokenizer)} tokens "
            f"({cfg.number_tokens} of them numbers): raise vocab_size, or leave it out to fit the tokenizer"
        )
    vocabulary = tokenizer.get_vocab()
    ids = {token: vocabulary[token] for token in family.special_tokens}
    text = {
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
    return family.config(cfg, text, ids)
