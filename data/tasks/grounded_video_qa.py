"""Grounded video question answering: the right option, and the spans of the video that show it.

Target: the letter of the right option; `meta.spans`, a list of `[start, end]` in seconds, is what tg.multi_iou compares
with (`target: spans` in the recipe). `meta.answer_style`: "brackets" writes both in one answer, `(B) [[3.50, 6.00]]`;
"glue" the letter in `<answer>` and the spans in `<glue>`, as VideoChat-R1 does, in output mode `think` only.
"""

from __future__ import annotations

from typing import Any

from vlrft.config import OutputMode, RewardSpec
from vlrft.data.problems import DataError
from vlrft.data.tasks.coordinates import Canvas, format_span
from vlrft.data.tasks.media_fields import ONE_VIDEO
from vlrft.data.tasks.options import check_choice, shown_options
from vlrft.data.tasks.row_task import FORMAT, Fields, RowTask, shared_out
from vlrft.data.tasks.targets import check_span
from vlrft.types import Part, Sample


class GroundedVideoQA(RowTask):
    """The task `grounded_video_qa`."""

    name = "grounded_video_qa"
    rewards = ("mcq.letter", "tg.multi_iou", FORMAT)
    metric = "mcq.letter"
    media = ONE_VIDEO
    styles = ("brackets", "glue")
    thought = "I look for the moments that bear on the question, and check each option against them."

    def read_target(self, fields: Fields) -> Any:
        if fields.meta.get("unit") not in (None, "seconds"):
            raise fields.error("meta.unit is not 'seconds', and grounded_video_qa answers in seconds; drop it")
        spans = fields.meta.get("spans")
        if not isinstance(spans, list | tuple) or not spans:
            raise fields.error(
                f"meta.spans is {spans!r:.200}; list the evidence as [start, end] in seconds, or use task choice"
            )
        checked = [check_span(span, fields.meta, where=fields.where) for span in spans]
        if empty := next((span for span in checked if span[0] == span[1]), None):
            raise fields.error(f"span {empty} of meta.spans has no length; correct or drop it")
        fields.meta["spans"] = checked
        return check_choice(fields.answer(), fields)

    def variables(self, sample: Sample, canvas: Canvas) -> dict[str, Any]:
        return {"options": shown_options(sample)}

    def reward_specs(self) -> list[RewardSpec]:
        return shared_out([RewardSpec(func="mcq.letter"), RewardSpec(func="tg.multi_iou", target="spans")])

    def answer(self, sample: Sample, canvas: Canvas) -> str:
        if self.style(sample.meta) == "glue":
            return str(sample.target)
        spans = ", ".join(format_span(span, sample.meta, style="json") for span in sample.meta["spans"])
        return f"({sample.target}) [{spans}]"

    def user_parts(
        self,
        sample: Sample,
        *,
        space: str,
        output_mode: OutputMode,
        template: str | None,
        input_size: tuple[int, int] | None,
    ) -> tuple[Part, ...]:
        self._check_mode(sample, output_mode)
        return super().user_parts(
            sample, space=space, output_mode=output_mode, template=template, input_size=input_size
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
        self._check_mode(sample, output_mode)
        text = super().reference(
            sample, space=space, image_size=image_size, input_size=input_size, output_mode=output_mode
        )
        if self.style(sample.meta) != "glue":
            return text
        spans = (format_span(span, sample.meta, style="json") for span in sample.meta["spans"])
        return f"{text}<glue>[{', '.join(f'({span[1:-1]})' for span in spans)}]</glue>"

    def _check_mode(self, sample: Sample, output_mode: OutputMode) -> None:
        if self.style(sample.meta) == "glue" and output_mode != "think":
            raise DataError(
                f"sample {sample.id}: meta.answer_style 'glue' is for data.output_mode think, not "
                f"{output_mode!r}; use the style 'brackets'"
            )
