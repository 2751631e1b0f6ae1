"""Qwen3-VL: coordinates on a 0-1000 grid; features of several vision layers enter the first language layers.

A video stands in the prompt as its pairs of frames, each after its time in text. `compact_ids` has one placeholder for
the whole video; an engine writes the times by itself, from the same timestamps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

from vlrft.models.chat import Slot
from vlrft.models.qwen_vl import QwenVL
from vlrft.types import MediaShape


class Qwen3VL(QwenVL):
    coord_space = "norm_1000"

    def video_input_size(self, frame_size: tuple[int, int], num_frames: int) -> tuple[int, int]:
        """The rule of its video processor with `cap_pixels_per_frame`: all frames together within its `size`, one frame
        within `max_video_tokens` tokens, but at least 1.05 times the lower bound.

        `total_pixels` stands for the upper bound, `min_pixels` (times the frames) for the lower, `max_pixels` for the
        one of a frame.
        """
        num_frames = max(num_frames, self.temporal)
        size = self.video_processor.size
        least = self.video.min_pixels or size["shortest_edge"]
        one = self.video.max_pixels or self.video_processor.max_video_tokens * self.factor**2
        one = max(min(one, (self.video.total_pixels or size["longest_edge"]) // num_frames), int(least * 1.05))
        height, width = smart_resize(
            num_frames=num_frames,
            height=frame_size[1],
            width=frame_size[0],
            temporal_factor=self.temporal,
            factor=self.factor,
            min_pixels=least * num_frames if self.video.min_pixels else least,
            max_pixels=one * num_frames,
        )
        return width, height

    def slot(self, shown: MediaShape) -> Slot:
        if shown.num_frames is None:
            return super().slot(shown)
        times = list(shown.timestamps)
        times.extend(times[-1:] * (-len(times) % self.temporal))
        firsts, lasts = times[:: self.temporal], times[self.temporal - 1 :: self.temporal]
        text = "".join(
            f"<{(first + last) / 2:.1f} seconds><|vision_start|>{self.video_token}<|vision_end|>"
            for first, last in zip(firsts, lasts, strict=True)
        )
        return Slot(text=text, runs=(self.pair_tokens(shown),) * len(firsts))

    def video_grids(self, mm: Mapping[str, Tensor]) -> list[tuple[int, int, int, float]]:
        """Every pair of frames is a run of its own."""
        return [(1, height, width, 1.0) for t, height, width, _ in super().video_grids(mm) for _ in range(t)]

    def span_lead(self, kind: str) -> int:
        """vLLM looks for the mark before each pair of frames."""
        return 1 if kind == "video" else 0

    def deep_features(self, out: Any) -> list[Tensor]:
        return [torch.cat(list(layer)) for layer in out.deepstack_features]

    def deep_inputs(self, slots: Tensor, layers: list[Tensor]) -> dict[str, Any]:
        return {"visual_pos_masks": slots, "deepstack_visual_embeds": layers}

    def export_name(self, name: str) -> str:
        return name
