"""What the rest of vlrft may ask of a model family, and nothing else: no other module knows a model by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from vlrft.types import Part, Prompt

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn
    from transformers import PreTrainedModel


class PromptError(ValueError):
    """A sample that cannot be rendered as asked; the message names the sample, the cause and the next step."""


class Family(Protocol):
    """Both directions between samples and a model's tokens, for one loaded model."""

    model: PreTrainedModel
    processor: Any
    coord_space: str
    """Space (of `coords.SPACES`) in which this family was trained to write coordinates."""
    banned_ids: tuple[int, ...]
    """Vision special tokens: never sampled, probability 0 in the trainer too. A sampled one would break the next
    forward ("Image features and image tokens do not match")."""
    stop_ids: tuple[int, ...]
    """Tokens that end a completion; the first is the one a reference answer ends with."""
    lm_head: nn.Linear

    def render(self, sample_id: str, parts: Sequence[Part], images: Sequence[Image]) -> Prompt:
        """One user turn with its images -> token ids, media tensors and rotary positions. PromptError on bad input."""

    def input_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) in pixels that the vision tower sees of an image of the given (width, height)."""

    def prompt_length(self, sample_id: str, parts: Sequence[Part], image_sizes: Sequence[tuple[int, int]]) -> int:
        """Tokens of the prompt that `render` would make, without any pixels."""

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of plain text; text never becomes a special token."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of completion tokens, special tokens left out."""

    def hidden_states(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        mm: Mapping[str, Tensor],
        *,
        accumulate_in_place: bool = False,
        **attention: Any,
    ) -> Tensor:
        """input_ids [1, T] or [R, 1], position_ids [3, ...] -> last hidden states [..., D]; media encoded once.

        accumulate_in_place: the embedding's gradient goes straight into its weight's (`logprob.embed`).
        """

    def collate_media(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """The media tensors of several prompts as one set, in order."""

    def freeze(self, *, vision_tower: bool, projector: bool, language_model: bool) -> None:
        """Switch gradients off for the named parts."""

    def export_name(self, name: str) -> str:
        """Name of a parameter in published checkpoints (and for engines that load them)."""
