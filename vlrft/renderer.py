"""Stops 3 and 4 of a batch: a sample's media are read and its prompt is rendered.

Prompts are rendered once per sample and kept while they fit in memory, so that later epochs, evaluations and both
stages of a run do not decode and resize again. Videos are decoded in other processes: those of a batch side by side,
and those of the next one while this one is worked on.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlrft.config import DataConfig
from vlrft.data.media import MediaError, image_size, left_out, open_image
from vlrft.data.problems import SampleError, Skipped
from vlrft.data.tasks import build_task, tasks_of
from vlrft.data.tasks.base import Task
from vlrft.data.tasks.templates import whole_templates
from vlrft.data.video import ClipRequest, ClipsAhead, clip_seconds, frame_times, probe, probe_many, submit_clip
from vlrft.models.base import Family, PromptError
from vlrft.types import Clip, Completion, FinishReason, MediaRef, MediaShape, Part, Prompt, Sample, Segment

if TYPE_CHECKING:
    from concurrent.futures import Future

    from PIL.Image import Image

    from vlrft.data.video import VideoInfo

logger = logging.getLogger(__name__)

PROMPT_CACHE_BYTES = 256 * 2**20

Rendered = tuple[Sample, Prompt]
"""A sample with its prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """A media item before its pixels are read."""

    stored: tuple[int, int]
    """(width, height) in pixels, upright."""
    shape: MediaShape
    """As the family is given it, after `data.resize`."""
    shown: tuple[int, int]
    """(width, height) in pixels that the vision tower will see."""
    duration: float | None = None
    """Seconds of a video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A sample whose videos are to be decoded, are being, or have been."""

    sample: Sample
    measured: Sequence[_Measured] = ()
    error: MediaError | PromptError | None = None
    """Why it cannot even be measured: raised when its turn comes."""


class Renderer:
    """Sample -> Prompt for the tasks of one data block and one model family."""

    def __init__(self, family: Family, data: DataConfig) -> None:
        self.family = family
        self.data = data
        self._tasks = tasks_of(data)
        self._templates: dict[str, str | None] = {}
        """Whole prompt templates by task; None: the task words its prompts itself."""
        self._cache: OrderedDict[int, Rendered] = OrderedDict()
        """By identity of the sample, which the entry keeps alive: splits may use the same ids for other images."""
        self._cached_bytes = 0
        self._asked: dict[int, _Asked] = {}
        """By identity of the sample: those whose turn comes next."""
        self._ahead = ClipsAhead[int](self._submit, capacity=data.video.ahead_mb * 2**20)
        """Their clips, by the same keys."""
        self._unreadable: dict[int, _Asked] = {}
        """Samples that failed: a file that hangs its decoder must not cost its time limit in every epoch."""

    def prompt(self, sample: Sample) -> Prompt:
        """Raises MediaError or PromptError, naming the sample's file or id, for a sample that cannot be rendered."""
        key = id(sample)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key][1]
        prompt = self._render(sample)
        self._cache[key] = (sample, prompt)
        self._cached_bytes += _size(prompt)
        while self._cached_bytes > PROMPT_CACHE_BYTES and len(self._cache) > 1:
            _, (_, oldest) = self._cache.popitem(last=False)
            self._cached_bytes -= _size(oldest)
        return prompt

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Have the videos of samples decoded that will be wanted next, by all `data.video.workers`, as far as their
        clips (uint8 frames at the size that they are shown at) fit into `data.video.ahead_mb`; does not wait for them.

        What was prepared before and is not among `samples` is let go. What cannot be read says so when its turn comes.
        """
        wanted = {id(sample) for sample in samples}
        for key in [key for key in self._asked if key not in wanted]:
            self._let_go(key)
        self._ask_for(samples)

    def usable(self, samples: Sequence[Sample]) -> tuple[list[Rendered], list[Skipped]]:
        """Render all; with `data.on_bad_sample="skip"` those that cannot be are logged and handed back as skipped."""
        good: list[Rendered] = []
        bad: list[Skipped] = []
        self._ask_for(samples)
        for sample in samples:
            try:
                good.append((sample, self.prompt(sample)))
            except (MediaError, PromptError) as error:
                if self.data.on_bad_sample == "error":
                    raise _naming(sample, error) from error
                logger.warning("sample %s left out: %s", sample.id, error)
                bad.append(left_out(sample, error, self.data.video))
        return good, bad

    def reference(self, sample: Sample, prompt: Prompt) -> Completion:
        """The answer that scores full marks, as the completion that supervised fine-tuning teaches."""
        text = self.reference_text(sample, self.judge_meta(sample, prompt))
        ids = (*self.family.encode(text), self.family.stop_ids[0])
        segment = Segment(token_ids=ids, logprobs=(0.0,) * len(ids))
        return Completion(segments=(segment,), text=text, finish_reason=FinishReason.STOP)

    def reference_text(self, sample: Sample, meta: Mapping[str, Any]) -> str:
        """`meta` as `judge_meta` and `check` return it."""
        image, seen = meta.get("image_size"), meta.get("input_size")
        return self._task_of(sample).reference(
            sample,
            space=meta["coord_space"],
            image_size=(image[0], image[1]) if image else None,
            input_size=(seen[0], seen[1]) if seen else None,
            output_mode=self.data.output_mode,
        )

    def reference_tokens(self, sample: Sample, meta: Mapping[str, Any]) -> int:
        """Tokens of the reference answer and the one that ends it; `meta` as for `reference_text`."""
        return len(self.family.encode(self.reference_text(sample, meta))) + 1

    def judge_meta(self, sample: Sample, prompt: Prompt) -> dict[str, Any]:
        """What a reward must know of the prompt: space of the completion's coordinates; size as stored and as shown of
        the first image or video; seconds of the first video, unless the row states them."""
        return _meta(sample, prompt.coord_space, prompt.image_sizes, prompt.input_sizes, prompt.durations)

    def check(self, sample: Sample) -> dict[str, Any]:
        """`judge_meta` from the media's headers alone. Raises PromptError or MediaError when the prompt would be
        refused."""
        meta, length = self.measure(sample)
        self._check_length(sample, length)
        return meta

    def measure(self, sample: Sample) -> tuple[dict[str, Any], int]:
        """(`judge_meta`, tokens of the prompt) from the media's headers alone, whatever the limit.

        Raises MediaError for a header that cannot be read, PromptError for media or text that cannot be shown.
        """
        measured = [self._measure(sample, ref) for ref in sample.media]
        parts = self._parts(sample, [item.shown for item in measured])
        length = self.family.prompt_length(sample.id, parts, [item.shape for item in measured])
        meta = _meta(
            sample,
            self.family.coord_space,
            [item.stored for item in measured],
            [item.shown for item in measured],
            [item.duration for item in measured],
        )
        return meta, length

    def _measure(self, sample: Sample, ref: MediaRef) -> _Measured:
        """Raises MediaError for a file whose header cannot be read, PromptError for a shape that cannot be shown."""
        if ref.kind == "image":
            stored, duration = image_size(ref), None
            shape = MediaShape(size=self.data.resize or stored)
        else:
            info = probe(ref, self.data.video)
            stored, duration = info.size, clip_seconds(ref, info.duration)
            times = self._times(sample, ref, info)
            shape = MediaShape(size=stored, num_frames=len(times), timestamps=times)
        try:
            shown = (
                self.family.input_size(shape.size)
                if shape.num_frames is None
                else self.family.video_input_size(shape.size, shape.num_frames)
            )
        except ValueError as error:
            raise PromptError(f"sample {sample.id!r}: {ref.name()}: {error}") from error
        return _Measured(stored=stored, shape=shape, shown=shown, duration=duration)

    def _times(self, sample: Sample, ref: MediaRef, info: VideoInfo) -> tuple[float, ...]:
        """Of the frames to be shown, by `data.video`, unless the task asks about particular ones."""
        of_task = getattr(self._task_of(sample), "shown_times", None)
        if of_task is None or ref is not sample.media[0]:
            return frame_times(info, self.data.video, ref.start, ref.end)
        try:
            times: tuple[float, ...] = of_task(sample, info)
        except MediaError:
            raise
        except SampleError as error:
            raise PromptError(str(error)) from error
        return times

    def _ask_for(self, samples: Sequence[Sample]) -> None:
        """Put the videos of those samples in line that are neither rendered nor in line yet."""
        known = (self._cache, self._asked, self._unreadable)
        new = {id(s): s for s in samples if not any(id(s) in held for held in known) and _videos(s)}
        # All at once: what is known already costs nothing, and the rest is not to wait for clips.
        probe_many([ref for sample in new.values() for ref in _videos(sample)], self.data.video)
        for sample in new.values():
            self._ask(sample)

    def _ask(self, sample: Sample) -> None:
        try:
            measured = [self._measure(sample, ref) for ref in sample.media]
        except (MediaError, PromptError) as error:
            self._asked[id(sample)] = _Asked(sample=sample, error=error)
            return
        self._asked[id(sample)] = _Asked(sample=sample, measured=measured)
        shown = zip(sample.media, measured, strict=True)
        self._ahead.add(
            id(sample),
            [
                ClipRequest(ref=ref, times=item.shape.timestamps, size=item.shown)
                for ref, item in shown
                if ref.kind == "video"
            ],
        )

    def _submit(self, request: ClipRequest) -> Future[Clip]:
        return submit_clip(request.ref, request.times, request.size, self.data.video)

    def _let_go(self, key: int) -> None:
        self._asked.pop(key, None)
        if key in self._ahead:
            self._ahead.done(key)

    def _render(self, sample: Sample) -> Prompt:
        """Media are decoded once and let go: the prompt holds what the vision tower takes."""
        key = id(sample)
        if key not in self._unreadable and key not in self._asked:
            self._ask(sample)
        asked = self._unreadable.get(key) or self._asked[key]
        try:
            if asked.error is not None:
                raise asked.error
            return self._of_media(sample, asked.measured, self._read(sample))
        finally:
            self._let_go(key)

    def _read(self, sample: Sample) -> list[Image | Clip]:
        clips = iter(self._ahead.take(id(sample)))
        try:
            return [next(clips).result() if ref.kind == "video" else self._image(ref) for ref in sample.media]
        except MediaError as error:
            # A new one: the traceback of this one holds what has been decoded so far.
            anew = MediaError(error.where, error.reason, medium=error.medium)
            self._unreadable[id(sample)] = _Asked(sample=sample, error=anew)
            raise

    def _of_media(self, sample: Sample, measured: Sequence[_Measured], media: list[Image | Clip]) -> Prompt:
        prompt = self.family.render(sample.id, self._parts(sample, [item.shown for item in measured]), media)
        self._check_length(sample, len(prompt.token_ids))
        return replace(
            prompt,
            image_sizes=tuple(item.stored for item in measured),
            durations=tuple(item.duration for item in measured),
        )

    def _image(self, ref: MediaRef) -> Image:
        """The upright image, at `data.resize`."""
        image = open_image(ref)
        return image.resize(self.data.resize) if self.data.resize is not None else image

    def _parts(self, sample: Sample, input_sizes: Sequence[tuple[int, int]]) -> tuple[Part, ...]:
        task = self._task_of(sample)
        if task.name not in self._templates:
            self._templates[task.name] = whole_templates(self.data, [task.name]).get(task.name)
        return task.user_parts(
            sample,
            space=self.family.coord_space,
            output_mode=self.data.output_mode,
            template=self._templates[task.name],
            input_size=input_sizes[0] if input_sizes else None,
        )

    def _task_of(self, sample: Sample) -> Task:
        """The sample's own task: sources of several may be mixed."""
        return self._tasks.get(sample.task) or build_task(sample.task)

    def _check_length(self, sample: Sample, length: int) -> None:
        if length > self.data.max_prompt_length:
            raise PromptError(
                f"sample {sample.id!r}: the prompt has {length} tokens, data.max_prompt_length is "
                f"{self.data.max_prompt_length}; raise it, or lower data.max_pixels, of videos data.video.max_frames "
                "or data.video.max_pixels (media are never cut)"
            )


def _naming(sample: Sample, error: MediaError | PromptError) -> MediaError | PromptError:
    """`error`, told of the sample: a file alone does not say which row wants it."""
    if isinstance(error, PromptError):
        return error
    return MediaError(f"sample {sample.id!r}: {error.where}", error.reason, medium=error.medium)


def _meta(
    sample: Sample,
    space: str,
    image_sizes: Sequence[tuple[int, int]],
    input_sizes: Sequence[tuple[int, int]],
    durations: Sequence[float | None],
) -> dict[str, Any]:
    meta: dict[str, Any] = {"coord_space": space}
    if image_sizes:
        meta |= {"image_size": list(image_sizes[0]), "input_size": list(input_sizes[0])}
    lasting = [seconds for seconds in durations if seconds is not None]
    # A benchmark's stated duration is what its published scores were computed with.
    if lasting and sample.meta.get("duration") is None:
        meta["duration"] = lasting[0]
    return meta


def _videos(sample: Sample) -> list[MediaRef]:
    return [ref for ref in sample.media if ref.kind == "video"]


def _size(prompt: Prompt) -> int:
    tensors = sum(value.nbytes for value in prompt.mm.values())
    return int(tensors) + 32 * len(prompt.token_ids)
