"""What the rest of vlrft may ask of a model family, and nothing else: no other module knows a model by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from vlrft.types import Clip, MediaShape, Part, Prompt

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from vlrft.config import AdapterConfig


class PromptError(ValueError):
    """A sample that cannot be rendered as asked; the message names the sample, the cause and the next step."""


def head_size(config: Any) -> int:
    """Dimensions of an attention head of the language model, from the model's configuration."""
    text = config.get_text_config()
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def following_positions(prompt: Prompt, count: int) -> Tensor:
    """Rotary positions [3, count] of the completion tokens after a prompt."""
    import torch

    return (prompt.next_position + torch.arange(count)).expand(3, -1)


def positions_with(prompt: Prompt, count: int) -> Tensor:
    """Rotary positions [3, 1, P + count] of a prompt and its completion's first `count` tokens."""
    import torch

    return torch.cat([prompt.position_ids, following_positions(prompt, count)], 1)[:, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaItem:
    """One image or video of a rendered prompt as an engine takes it: the trainer's own tensors and tokens."""

    kind: Literal["image", "video"]
    start: int
    """Where its tokens begin in `Prompt.token_ids`."""
    is_vision: tuple[bool, ...]
    """Of every token from there on: whether a feature of the tower stands for it."""
    rows: Mapping[str, Tensor]
    """Tensors whose first dimension runs over patches or tiles."""
    about: Mapping[str, Tensor]
    """Tensors with one value for the item: grids, timing, counts."""
    digest: str
    """`media_digest` of what the tower gets: the key of an engine's caches."""


class Spread(Protocol):
    """Weights in parts. To ask for anything is collective: all ranks do, at the same time."""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the model whole, one by one, a tied one once; gone at the next."""

    def logprobs(self, prompt: Prompt | None, token_ids: Sequence[int]) -> list[float]:
        """Log-probs of a completion's tokens at temperature 1 and without bans; [] without a prompt."""


class Family(Protocol):
    """Both directions between samples and a model's tokens, for one loaded model."""

    model: PreTrainedModel
    processor: Any
    coord_space: str
    """Space (of `coords.SPACES`) in which this family was trained to write coordinates."""
    banned_ids: tuple[int, ...]
    """Vision special tokens: never sampled, probability 0 in the trainer too. A sampled one would break the next
    forward ("Image features and image tokens do not match")."""
    spread: Spread | None
    """Who has the weights while they are spread over the ranks (`vlrft.shard`); `model` is empty then."""
    stop_ids: tuple[int, ...]
    """Tokens that end a completion; the first is the one a reference answer ends with."""
    lm_head: nn.Linear
    adapter: AdapterConfig | None
    """What adapts the model's linear layers; None = nothing."""

    def render(self, sample_id: str, parts: Sequence[Part], media: Sequence[Image | Clip]) -> Prompt:
        """One user turn with its media -> token ids, media tensors and rotary positions. PromptError on bad input.

        A clip's frames are shown as they are: their size must be one that `video_input_size` gives.
        """

    def prompt_length(self, sample_id: str, parts: Sequence[Part], shapes: Sequence[MediaShape]) -> int:
        """Tokens of the prompt that `render` would make of media with these stored sizes, without any pixels."""

    def input_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) in pixels that the vision tower sees of an image of the given (width, height)."""

    def video_input_size(self, frame_size: tuple[int, int], num_frames: int) -> tuple[int, int]:
        """(width, height) in pixels at which `num_frames` frames of the given (width, height) are shown."""

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
        touch_vision: bool = False,
        **attention: Any,
    ) -> Tensor:
        """input_ids [1, T] or [R, 1], position_ids [3, ...] -> last hidden states [..., D]; media encoded once.

        The vision tower runs once when `mm` holds any media, images and videos together, and not at all otherwise.
        touch_vision: then run it on `blank_media` for nothing, with a gradient of zero: for ranks whose stream has no
        media while another's has, since each must make the same collective calls.
        accumulate_in_place: the embedding's gradient goes straight into its weight's (`logprob.embed`).
        """

    def collate_media(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """The media tensors of several prompts as one set, in order; of a single one its own, not copies."""

    def media_items(self, prompt: Prompt) -> list[MediaItem]:
        """The prompt's media one by one, in the order in which it shows them, under the names that vLLM takes."""

    def media_runs(self, prompt: Prompt) -> list[MediaItem]:
        """`media_items` for an engine that takes an item's first token and their number, and no mask.

        Every unbroken run of vision tokens is an item: a video that text breaks up comes as one image per run, which
        its tower sees one by one in any case.
        """

    def blank_media(self) -> dict[str, Tensor]:
        """The smallest input that the vision tower takes, on the model's device."""

    def library_inputs(self, prompt: Prompt, token_ids: Tensor) -> dict[str, Tensor]:
        """What transformers' own forward takes for `token_ids` [1, T], the prompt and whatever follows it."""

    def part_of(self, name: str) -> str:
        """vision_tower | projector | language_model, from the name of a parameter (or of an adapter's on it)."""

    def freeze(self, *, vision_tower: bool, projector: bool, language_model: bool) -> None:
        """Switch gradients off for the named parts."""

    def keep_limits(self) -> None:
        """Write the pixel limits of images that this family was given into its processor, for whoever loads that."""

    def export_name(self, name: str) -> str:
        """Name of a parameter in published checkpoints (and for engines that load them)."""


def media_digest(*tensors: Tensor) -> str:
    """SHA-256 (hex) over type, shape and values of what the vision tower gets of one media item, on the CPU.

    Equal digests, equal input. An engine that prepares media by itself proves with it that it shows what the trainer
    shows.
    """
    import torch

    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
