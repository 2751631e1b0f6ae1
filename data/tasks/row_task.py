"""What the shipped tasks have in common: a task says which media it takes, how its answer is checked, and how written.

Its wording is in data/templates/<task>/.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from vlrft.config import OutputMode, RewardSpec
from vlrft.coords import check_space
from vlrft.data.problems import SampleError
from vlrft.data.tasks.base import Row, missing_field, read_meta, read_question
from vlrft.data.tasks.coordinates import Canvas
from vlrft.data.tasks.media_fields import Media, MediaRule, read_media
from vlrft.data.tasks.prompting import render_user_parts, wrap_answer
from vlrft.data.tasks.targets import check_duration, check_text, stated_answer, stated_space
from vlrft.data.tasks.templates import FOLDER
from vlrft.types import Part, Sample

FORMAT = "format.think_answer"
FORMAT_WEIGHT = 0.1
"""Share of the format reward in the default rewards; the task's own rewards have the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """A row, read as far as that does not depend on the task."""

    row: Row
    where: str
    """File and line, for messages."""
    media: Media
    meta: dict[str, Any]
    """What the sample's meta will be; a task may add to it."""
    space: str
    """Coordinate space of the answer."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in stored pixels of the first image or video, which coordinates refer to."""
        return self.media.sizes[0]

    def answer(self, *, decode: bool = False) -> Any:
        """The row's `answer`; decode: a text is read as JSON. Raises SampleError where there is none."""
        return stated_answer(self.row, self.where, decode=decode)

    def error(self, reason: str) -> SampleError:
        """The error that names this row."""
        return SampleError(self.where, reason)


class RowTask(ABC):
    """Base of the shipped tasks; see `Task` for what each method is for."""

    name: ClassVar[str]
    rewards: ClassVar[tuple[str, ...]]
    metric: ClassVar[str]
    media: ClassVar[MediaRule]
    styles: ClassVar[tuple[str, ...]] = ()
    """What `meta.answer_style` may say, the default first; () = there is one way to answer."""
    box_keys: ClassVar[tuple[str, ...]] = ("space",)
    """What the row's `boxes` may hold."""
    thought: ClassVar[str]
    """The reasoning of reference answers to rows that bring none."""

    @abstractmethod
    def read_target(self, fields: Fields) -> Any:
        """The target, checked. May add to `fields.meta`. Raises SampleError."""

    @abstractmethod
    def answer(self, sample: Sample, canvas: Canvas) -> str:
        """The right answer as a model writes it, without tags."""

    def variables(self, sample: Sample, canvas: Canvas) -> dict[str, Any]:
        """What its templates may use besides the variables of all tasks."""
        return {}

    def reward_specs(self) -> list[RewardSpec]:
        own = [RewardSpec(func=name) for name in self.rewards if name != FORMAT]
        return shared_out(own)

    def to_sample(self, row: Row, *, where: str) -> Sample:
        media = read_media(row, self.media, task=self.name, where=where)
        space = stated_space(row, where, keys=self.box_keys)
        fields = Fields(row=row, where=where, media=media, meta=self._meta(row, media, where), space=space)
        target = self.read_target(fields)
        if row.get("id") is None:
            raise missing_field(row, "id", where)
        parts = read_question(
            row,
            num_images=media.num_images,
            num_videos=len(media.refs) - media.num_images,
            video=self.media.videos != (0, 0),
            where=where,
        )
        return Sample(
            id=str(row["id"]),
            task=self.name,
            parts=parts,
            media=media.refs,
            target=target,
            target_space=space,
            meta=fields.meta,
        )

    def user_parts(
        self,
        sample: Sample,
        *,
        space: str,
        output_mode: OutputMode,
        template: str | None,
        input_size: tuple[int, int] | None,
    ) -> tuple[Part, ...]:
        check_space(space)
        size = {"abs_original": sample.meta.get("image_size"), "abs_input": input_size}.get(space)
        variables = {
            "task": self.name,
            "mode": output_mode,
            "style": self.style(sample.meta),
            "space": space,
            "size": size,
            "medium": "frame" if sample.media and sample.media[0].kind == "video" else "image",
            "meta": dict(sample.meta),
        }
        canvas = Canvas(space=space, input_size=input_size)
        return render_user_parts(
            sample, task=self.wording(), template=template, variables={**variables, **self.variables(sample, canvas)}
        )

    def reference(
        self,
        sample: Sample,
        *,
        space: str,
        image_size: tuple[int, int] | None,
        input_size: tuple[int, int] | None,
        output_mode: OutputMode,
    ) -> str:
        answer = self.answer(sample, Canvas(space=space, image_size=image_size, input_size=input_size))
        think = sample.meta.get("think")
        return wrap_answer(answer, think=think, default_think=self.thought, output_mode=output_mode)

    def wording(self) -> str:
        """Folder of its templates: its own, or that of the shipped task that it is derived from."""
        names = (getattr(kind, "name", "") for kind in type(self).__mro__)
        return next((name for name in names if name and (FOLDER / name).is_dir()), self.name)

    def style(self, meta: Mapping[str, Any]) -> str | None:
        """How the answer is to be written, where there are several ways."""
        return meta.get("answer_style") or (self.styles[0] if self.styles else None)

    def _meta(self, row: Row, media: Media, where: str) -> dict[str, Any]:
        meta = read_meta(row, where=where)
        style = meta.get("answer_style")
        if style is not None and style not in self.styles:
            use = f"use one of {', '.join(self.styles)}" if self.styles else f"{self.name} has one style only; drop it"
            raise SampleError(where, f"meta.answer_style is {style!r}; {use}")
        if meta.get("think") is not None:
            check_text(meta["think"], where=where, what="meta.think")
        if media.sizes:
            meta["image_size"] = list(media.sizes[0])
        clips = [duration for duration in media.durations if duration is not None]
        if clips:
            meta.setdefault("duration", clips[0])
            check_duration(meta, where)
        return meta


def shared_out(own: list[RewardSpec]) -> list[RewardSpec]:
    """`own` with equal shares of what the format reward leaves, where they judge the same samples, and that reward."""
    together = max(1, sum(not spec.when for spec in own))
    weight = (1.0 - FORMAT_WEIGHT) / together
    return [
        *(spec.model_copy(update={"weight": weight}) for spec in own),
        RewardSpec(func=FORMAT, weight=FORMAT_WEIGHT),
    ]
