"""What all families share: one user turn of the chat template, media as runs of vision tokens in it, one tower call.

A subclass says at which size an item is shown (`input_size`, `video_input_size`), which text and how many tokens it
takes (`slot`), makes its pixels (`pixels`), places the rotary positions (`positions`), runs the vision tower (`tower`).

Shape suffixes: T stream tokens, M vision tokens among them, D hidden size.
"""

from __future__ import annotations

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from vlrft.config import AdapterConfig, VideoConfig
from vlrft.logprob import embed
from vlrft.models.base import MediaItem, PromptError, Spread
from vlrft.types import Clip, MediaPart, MediaShape, Part, Prompt, TextPart

if TYPE_CHECKING:
    from PIL.Image import Image

STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """What stands in the prompt for one media item."""

    text: str
    """In place of the template's placeholder, every run of vision tokens written as one."""
    runs: tuple[int, ...]
    """Length in tokens of each of these runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A user turn as tokens."""

    token_ids: tuple[int, ...]
    compact_ids: tuple[int, ...]
    """One placeholder per media item, as the chat template writes it."""
    order: tuple[int, ...]
    """Index of each item in the sample's media, in the order in which the turn shows them."""
    spans: tuple[tuple[int, int], ...]
    """(start, end) in `token_ids` of each item, in that order."""


class ChatFamily(ABC):
    """Base of the families: see the module."""

    coord_space = "norm_1000"
    image_token: str
    """Placeholder of an image in the chat template."""
    video_token: str
    run_tokens: tuple[str, ...]
    """Tokens that stand for vision features, one each; their features come from `tower` in this order."""
    vision_tokens: tuple[str, ...]
    """Every special token around and for media: no completion may hold one."""
    spread: Spread | None = None

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        video: VideoConfig | None = None,
    ) -> None:
        """min_pixels, max_pixels: budget of one image; `video`: budgets of videos. None = the model's usual ones."""
        self.model = model
        self.processor: Any = processor
        self.tokenizer: Any = self.processor.tokenizer
        self.image_processor: Any = self.processor.image_processor
        self.video_processor: Any = self.processor.video_processor
        self.min_pixels, self.max_pixels = min_pixels, max_pixels
        self.video = video if video is not None else VideoConfig()
        ids = self.tokenizer.get_vocab()
        self.run_ids = tuple(ids[token] for token in self.run_tokens)
        self.image_id = ids[self.run_tokens[0]]
        self.banned_ids = tuple(ids[token] for token in self.vision_tokens if token in ids)
        self.stop_ids = tuple(ids[token] for token in STOP_TOKENS if token in ids)
        added = self.tokenizer.added_tokens_decoder.values()
        self.special_tokens = tuple(token.content for token in added if token.special)
        self.lm_head: nn.Linear = model.lm_head
        self.adapter: AdapterConfig | None = None

    @abstractmethod
    def slot(self, shown: MediaShape) -> Slot:
        """`shown`: an item with its size as the vision tower sees it. Raises ValueError for one that it cannot see."""

    @abstractmethod
    def pixels(self, shown: Sequence[MediaShape], media: Sequence[Image | Clip]) -> tuple[dict[str, Tensor], list[str]]:
        """Tensors of media in the order of the turn, and the digest of each item."""

    @abstractmethod
    def positions(self, token_ids: Sequence[int], mm: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Rotary positions [3, P] of a prompt, and the one that follows it."""

    @abstractmethod
    def tower(self, mm: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Vision features [M, D], kind by kind in the order of `run_tokens`, and deeper layers' features, alike."""

    def deep_inputs(self, slots: Tensor, layers: list[Tensor]) -> dict[str, Any]:
        """What the language model takes of the deeper layers' features, which are in stream order here."""
        return {}

    def text_positions(self, position_ids: Tensor) -> Tensor:
        """Of positions [3, ...] what the language model takes."""
        return position_ids

    @abstractmethod
    def part_of(self, name: str) -> str:
        """vision_tower | projector | language_model, from a parameter name."""

    @abstractmethod
    def blank_media(self) -> dict[str, Tensor]: ...

    def encode(self, text: str) -> tuple[int, ...]:
        self._refuse_special_tokens(text, "text")
        return self._ids(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    @abstractmethod
    def input_size(self, image_size: tuple[int, int]) -> tuple[int, int]: ...

    @abstractmethod
    def video_input_size(self, frame_size: tuple[int, int], num_frames: int) -> tuple[int, int]: ...

    def prompt_length(self, sample_id: str, parts: Sequence[Part], shapes: Sequence[MediaShape]) -> int:
        with _naming(sample_id):
            shown = [replace(shape, size=self._size(shape.size, shape.num_frames)) for shape in shapes]
        return len(self._turn(sample_id, parts, shown).token_ids)

    def render(self, sample_id: str, parts: Sequence[Part], media: Sequence[Image | Clip]) -> Prompt:
        shown = [self._shown(sample_id, item) for item in media]
        turn = self._turn(sample_id, parts, shown)
        mm, digests = self.pixels([shown[i] for i in turn.order], [media[i] for i in turn.order])
        position_ids, following = self.positions(turn.token_ids, mm)
        return Prompt(
            sample_id=sample_id,
            token_ids=turn.token_ids,
            compact_ids=turn.compact_ids,
            mm=mm,
            position_ids=position_ids,
            next_position=following,
            coord_space=self.coord_space,
            image_sizes=tuple(item.stored_size if isinstance(item, Clip) else item.size for item in media),
            input_sizes=tuple(shape.size for shape in shown),
            durations=tuple(item.duration if isinstance(item, Clip) else None for item in media),
            media_digests=tuple(digests[turn.order.index(i)] for i in range(len(media))),
            media_spans=tuple(turn.spans[turn.order.index(i)] for i in range(len(media))),
        )

    def _size(self, stored: tuple[int, int], num_frames: int | None) -> tuple[int, int]:
        return self.input_size(stored) if num_frames is None else self.video_input_size(stored, num_frames)

    def _shown(self, sample_id: str, item: Image | Clip) -> MediaShape:
        if not isinstance(item, Clip):
            with _naming(sample_id):
                return MediaShape(size=self.input_size(item.size))
        count, height, width = item.frames.shape[:3]
        if count == 0 or count != len(item.timestamps):
            raise PromptError(
                f"sample {sample_id!r}: a video with {count} frames and {len(item.timestamps)} timestamps; "
                "decode it again"
            )
        return MediaShape(size=(width, height), num_frames=count, timestamps=item.timestamps)

    def _turn(self, sample_id: str, parts: Sequence[Part], shown: Sequence[MediaShape]) -> Turn:
        text, order = self._template(sample_id, parts, shown)
        with _naming(sample_id):
            slots = [self.slot(shown[i]) for i in order]
        texts = iter([slot.text for slot in slots])
        filled = self._placeholders().sub(lambda _: next(texts), text)
        # A run is one token here and repeated below: what stands around it is tokenised as in the full text.
        lengths = iter([length for slot in slots for length in slot.runs])
        token_ids, runs = list[int](), list[tuple[int, int]]()
        for token in self._ids(filled):
            if token in self.run_ids:
                runs.append((len(token_ids), len(token_ids) + next(lengths)))
                token_ids.extend([token] * (runs[-1][1] - runs[-1][0]))
            else:
                token_ids.append(token)
        ends = list(itertools.accumulate(len(slot.runs) for slot in slots))
        spans = tuple((runs[end - len(slot.runs)][0], runs[end - 1][1]) for slot, end in zip(slots, ends, strict=True))
        return Turn(token_ids=tuple(token_ids), compact_ids=self._ids(text), order=tuple(order), spans=spans)

    def _template(self, sample_id: str, parts: Sequence[Part], shown: Sequence[MediaShape]) -> tuple[str, list[int]]:
        """The turn as the chat template writes it, and the order in which it shows the media."""
        content: list[dict[str, Any]] = []
        order = [part.index for part in parts if isinstance(part, MediaPart)]
        if sorted(order) != list(range(len(shown))):
            raise PromptError(
                f"sample {sample_id!r} has {len(shown)} images and videos, and its question places {order or 'none'}: "
                "place each exactly once"
            )
        for part in parts:
            if isinstance(part, TextPart):
                self._refuse_special_tokens(part.text, f"sample {sample_id!r}: the question")
                content.append({"type": "text", "text": part.text})
            else:
                content.append({"type": _kind(shown[part.index])})
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        placed = ["video" if found == self.video_token else "image" for found in self._placeholders().findall(text)]
        if placed != [_kind(shown[i]) for i in order]:
            raise PromptError(
                f"sample {sample_id!r}: the chat template placed {placed or 'no media'}, the question has "
                f"{[_kind(shown[i]) for i in order] or 'none'}: correct the template"
            )
        return text, order

    def _placeholders(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, (self.image_token, self.video_token))))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @abstractmethod
    def keep_limits(self) -> None: ...

    def collate_media(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        with_media = [prompt.mm for prompt in prompts if prompt.mm]
        if len(with_media) == 1:
            return dict(with_media[0])
        keys = dict.fromkeys(key for mm in with_media for key in mm)
        return {key: torch.cat([mm[key] for mm in with_media if key in mm]) for key in keys}

    def media_items(self, prompt: Prompt) -> list[MediaItem]:
        order = sorted(range(len(prompt.media_spans)), key=lambda i: prompt.media_spans[i])
        kinds: list[Literal["image", "video"]] = ["image" if prompt.durations[i] is None else "video" for i in order]
        starts = [prompt.media_spans[i][0] - self.span_lead(kind) for i, kind in zip(order, kinds, strict=True)]
        masks = [
            tuple(token in self.run_ids for token in prompt.token_ids[start : prompt.media_spans[i][1]])
            for i, start in zip(order, starts, strict=True)
        ]
        tensors = self.split_media(prompt.mm, kinds, [sum(mask) for mask in masks])
        return [
            MediaItem(kind=kind, start=start, is_vision=mask, rows=rows, about=about, digest=prompt.media_digests[i])
            for i, kind, start, mask, (rows, about) in zip(order, kinds, starts, masks, tensors, strict=True)
        ]

    def media_runs(self, prompt: Prompt) -> list[MediaItem]:
        return [run for item in self.media_items(prompt) for run in self._runs(item)]

    def _runs(self, item: MediaItem) -> list[MediaItem]:
        edges = [
            i for i, (before, here) in enumerate(itertools.pairwise((False, *item.is_vision, False))) if before != here
        ]
        places = [
            (item.start + first, (True,) * (end - first)) for first, end in zip(edges[::2], edges[1::2], strict=True)
        ]
        if len(places) == 1:
            return [replace(item, start=places[0][0], is_vision=places[0][1])]
        parts = {name.removesuffix("_videos"): rows.chunk(len(places)) for name, rows in item.rows.items()}
        return [
            MediaItem(
                kind="image",
                start=start,
                is_vision=mask,
                rows={name: chunks[i] for name, chunks in parts.items()},
                about=self.about_frame(item.about),
                digest=f"{item.digest}-{i}",
            )
            for i, (start, mask) in enumerate(places)
        ]

    @abstractmethod
    def about_frame(self, about: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`MediaItem.about` of one run of a video's tokens as an image, from the video's own."""

    @abstractmethod
    def split_media(
        self, mm: Mapping[str, Tensor], kinds: Sequence[str], tokens: Sequence[int]
    ) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """(`MediaItem.rows`, `MediaItem.about`) of every item in the order of the turn; `tokens`: vision
        tokens of each."""

    def span_lead(self, kind: str) -> int:
        """Tokens before an item's first vision token that vLLM counts to the item."""
        return 0

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
        inner: Any = self.model.model
        table = inner.get_input_embeddings()
        learns = torch.is_grad_enabled() and table.weight.requires_grad
        embeds = embed(table, input_ids) if accumulate_in_place and learns else table(input_ids)
        extra: dict[str, Any] = {}
        if mm or touch_vision:
            with torch.set_grad_enabled(torch.is_grad_enabled() and self._vision_learns()):
                features, layers = self.tower(mm or self.blank_media())
            if mm:
                slots, (features, *layers) = self._in_stream_order(input_ids, [features, *layers])
                embeds = embeds.masked_scatter(slots.unsqueeze(-1), features.to(embeds.dtype))
                extra = self.deep_inputs(slots, layers)
            else:
                embeds = embeds + 0.0 * torch.cat([features, *layers]).sum().to(embeds.dtype)
        out = inner.language_model(
            inputs_embeds=embeds,
            position_ids=self.text_positions(position_ids),
            use_cache=False,
            **extra,
            **attention,
        )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def _in_stream_order(self, input_ids: Tensor, features: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Which tokens are vision tokens (bool [1, T]), and `features`, sorted by kind, in these tokens' order."""
        slots = torch.isin(input_ids, torch.tensor(self.run_ids, device=input_ids.device))
        tokens = input_ids[slots]
        if len(tokens) != len(features[0]):
            raise PromptError(f"{len(tokens)} vision tokens in the stream, {len(features[0])} vision features")
        if bool((tokens == tokens[0]).all()):
            return slots, features
        kinds = torch.stack([tokens == token for token in self.run_ids]).int().argmax(0)
        # A stable sort by kind says which feature every token got; its inverse, where each token finds its own.
        rows = torch.argsort(torch.argsort(kinds, stable=True))
        return slots, [feature[rows] for feature in features]

    def _vision_learns(self) -> bool:
        named = self.model.named_parameters()
        return any(p.requires_grad for name, p in named if self.part_of(name) != "language_model")

    def freeze(self, *, vision_tower: bool, projector: bool, language_model: bool) -> None:
        off = {"vision_tower": vision_tower, "projector": projector, "language_model": language_model}
        for name, parameter in self.model.named_parameters():
            if off[self.part_of(name)]:
                parameter.requires_grad_(False)

    def _refuse_special_tokens(self, text: str, what: str) -> None:
        found = [token for token in self.special_tokens if token in text]
        if found:
            raise PromptError(
                f"{what} contains {found[0]!r}, which is a control token of the model: remove it from the text "
                "(media are placed by typed parts, never by literal tokens)"
            )


def _kind(shape: MediaShape) -> str:
    return "image" if shape.num_frames is None else "video"


@contextmanager
def _naming(sample_id: str) -> Iterator[None]:
    """What is wrong with a size becomes a PromptError that names the sample."""
    try:
        yield
    except ValueError as error:
        raise PromptError(f"sample {sample_id!r}: {error}") from error
