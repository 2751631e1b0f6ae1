"""The nouns of vlrft, in the order in which a batch meets them. No torch here.

Sample -> Prompt -> Completion -> Rollout (Completion + Score) -> Group (one Prompt, G Rollouts).

Every type is frozen: a stage builds the next type and changes none. `score`, `reward` and `advantage` are three
names for three things: a Score is what a judge says with its parts, the reward is the weighted number taken from it,
the advantage is what the objective makes of the rewards of one group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"
    """The model emitted an end-of-sequence token (it is the last token of the completion)."""
    LENGTH = "length"
    """The token limit was reached first: the completion is truncated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRef:
    """One image or video by reference; pixels are read at the media stop only.

    Example: MediaRef(kind="image", path="/data/bccd/JPEGImages/BloodImage_00001.jpg")
    """

    kind: Literal["image", "video"] = "image"
    path: str | None = None
    """Absolute path, or None when `data` or `frames` holds it."""
    data: bytes | None = None
    """Encoded file contents (PNG, JPEG, MP4 ...), as parquet rows carry them."""
    frames: tuple[str, ...] = ()
    """Video: absolute paths of its frames as image files, where it is published so (GOT-10k)."""
    fps: float | None = None
    """Video: frames per second of `frames`."""
    start: float | None = None
    """Video: show it from this second on; None = from its beginning. All times of the sample count from here."""
    end: float | None = None
    """Video: ... up to this second; None = to its end."""

    def name(self) -> str:
        """What error messages call this file."""
        if self.frames:
            return f"{self.frames[0]} and {len(self.frames) - 1} more frames"
        return self.path if self.path is not None else f"<{len(self.data or b'')} bytes of {self.kind}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaShape:
    """What is known of a media item before its pixels are read: enough for the length of a prompt."""

    size: tuple[int, int]
    """(width, height) in pixels, as stored."""
    num_frames: int | None = None
    """Video: frames that will be shown; None = an image."""
    timestamps: tuple[float, ...] = ()
    """Video: second of each of these frames, from the start of the clip."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clip:
    """A video as the model sees it. Decoded once: trainer and engine get these very frames and timestamps."""

    frames: Any
    """uint8 array [T, H, W, 3], RGB, already at the size that the vision tower takes."""
    timestamps: tuple[float, ...]
    """T seconds, rising, from the start of the clip."""
    fps: float
    """Frames shown per second of video, for models whose positions are seconds."""
    duration: float
    """Seconds of the clip."""
    stored_size: tuple[int, int]
    """(width, height) in pixels of the stored video, upright: what `abs_original` coordinates refer to."""
    digest: str = ""
    """SHA-256 of the frames and timestamps: equal digests, equal video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    """Literal text of the user turn. `<image>` inside it is text, never a slot."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPart:
    """The place of `Sample.media[index]` in the user turn."""

    index: int


Part = TextPart | MediaPart


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One labelled example, as a task made it from a row.

    Example: Sample(id="shapes-7", task="grounding", parts=(MediaPart(index=0), TextPart(text="the red square")),
    media=(MediaRef(path="/d/7.png"),), target=[8.0, 16.0, 40.0, 48.0], target_space="abs_original")
    """

    id: str
    """Stable over runs and machines: the key of seeds, logs and error messages."""
    task: str
    """Name in the TASKS table."""
    parts: tuple[Part, ...]
    """The question, without any output-format instruction (the task adds that for the model family)."""
    media: tuple[MediaRef, ...] = ()
    target: Any = None
    """What the reward compares with; its form is fixed per reward family (JSON-like)."""
    target_space: str = "abs_original"
    """Coordinate space of `target`, one of `coords.SPACES`."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Everything else a reward or a report may want: labels, options, the source row's other columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A rendered prompt: made once per group, shared by its G completions."""

    sample_id: str
    token_ids: tuple[int, ...]
    """P token ids with media placeholders expanded, as the trainer's forward sees them."""
    compact_ids: tuple[int, ...]
    """The same prompt with one placeholder per media item, for engines that expand by themselves."""
    mm: Mapping[str, Any] = field(default_factory=dict)
    """Opaque tensors for the model's vision tower (`pixel_values`, `image_grid_thw` ...); only the family reads it."""
    position_ids: Any = None
    """int64 tensor [3, P]: temporal, height and width rotary positions."""
    next_position: int = 0
    """Rotary position of the first completion token (all three axes)."""
    coord_space: str = "abs_original"
    """Space in which the model writes coordinates in this prompt's answers."""
    image_sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) in pixels of each image or video, in the order of `Sample.media`, as stored in its file."""
    input_sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) in pixels of each image, or of a video's frames, as the vision tower sees it, after resizing."""
    durations: tuple[float | None, ...] = ()
    """Seconds of each video; None for an image."""
    media_digests: tuple[str, ...] = ()
    """SHA-256 of each item as the vision tower gets it (`models.base.media_digest`): trainer and engine must agree."""
    media_spans: tuple[tuple[int, int], ...] = ()
    """(start, end) in `token_ids` of each item: from its first vision token to behind its last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of tokens in a completion that share one origin."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Behaviour log-probs of the engine, one per token."""
    loss_mask: bool = True
    """False for text that the policy did not write (injected hints, tool results)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What an engine returns for one of the G rows of a prompt."""

    segments: tuple[Segment, ...]
    text: str
    """Decoded text without the end-of-sequence token."""
    finish_reason: FinishReason
    policy_version: int = 0
    """Optimiser steps that the weights had seen when they sampled this completion."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(t for s in self.segments for t in s.token_ids)

    @property
    def logprobs(self) -> tuple[float, ...]:
        return tuple(x for s in self.segments for x in s.logprobs)

    @property
    def loss_mask(self) -> tuple[bool, ...]:
        return tuple(s.loss_mask for s in self.segments for _ in s.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a judge says of one completion.

    Example: Score(value=0.73, parts={"box.iou": 0.7, "format.think_answer": 1.0}, flags=("lenient",))
    """

    value: float | None
    """The judge's number; None = does not apply to this sample."""
    parts: Mapping[str, float | None] = field(default_factory=dict)
    """Every part by name, kept and logged for ever; None = does not apply."""
    flags: tuple[str, ...] = ()
    """Names from `rewards.FLAGS` that say what was wrong with the completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A completion with its score."""

    completion: Completion
    score: Score
    reward: float
    """The number the objective sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The unit of work: one prompt and its G rollouts."""

    sample: Sample
    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    advantages: tuple[float, ...] | None = None
    """One per rollout; None until the objective has looked at the batch."""

    @property
    def rewards(self) -> tuple[float, ...]:
        return tuple(r.reward for r in self.rollouts)
