"""Counts what really goes through a model: vision patches, prompt tokens and completion tokens, by forward hooks."""

from __future__ import annotations

from typing import Any

from torch import nn

from vlrft.layout import PackedLayout

COUNTED = ("vision_patches", "prompt_tokens", "trained_tokens", "decoded_tokens", "training_forwards")


class Forwarded:
    """Counters on the vision tower and the language model of a Qwen-VL model under vlrft's packed forward."""

    def __init__(self, model: Any) -> None:
        self.prompt_lengths: set[int] = set()
        """Tokens of every prompt seen."""
        self.completion_lengths: set[int] = set()
        """Tokens of every completion trained on, the last one (which is only predicted) included."""
        self._counts: dict[str, int] = {}
        model.model.visual.register_forward_pre_hook(self._see_vision, with_kwargs=True)
        model.model.language_model.register_forward_pre_hook(self._see_language, with_kwargs=True)

    def collect(self) -> dict[str, int]:
        """Counts since the last call: `vision_patches` and `prompt_tokens` (rollout and training together),
        `trained_tokens` (completion tokens in training), `decoded_tokens`, `training_forwards` (micro-batches)."""
        counts = {name: self._counts.get(name, 0) for name in COUNTED}
        self._counts = {}
        return counts

    def _see_vision(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        patches = args[0] if args else kwargs["hidden_states"]
        self._add("vision_patches", len(patches))

    def _see_language(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        layout: PackedLayout | None = kwargs.get("packed")
        if layout is None:
            self._add("decoded_tokens", len(kwargs["inputs_embeds"]))
            return
        prompts = [length for _, length in layout.prompts]
        completions = [length for spans in layout.completions for _, length in spans]
        self._add("prompt_tokens", sum(prompts))
        self._add("trained_tokens", sum(completions))
        self._add("training_forwards", int(bool(completions)))
        self.prompt_lengths.update(prompts)
        self.completion_lengths.update(length + 1 for length in completions)

    def _add(self, name: str, count: int) -> None:
        self._counts[name] = self._counts.get(name, 0) + count
