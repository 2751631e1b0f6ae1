"""Qwen2.5-VL: coordinates in pixels of the image as the vision tower sees it; a video's rotary time is in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vlrft.models.qwen_vl import QwenVL
from vlrft.types import Clip


class Qwen25VL(QwenVL):
    coord_space = "abs_input"

    def timing(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """Seconds between a pair of frames and the next."""
        return {"second_per_grid_ts": torch.tensor([self.temporal / clip.fps for clip in clips])}

    def video_grids(self, mm: Mapping[str, Tensor]) -> list[tuple[int, int, int, float]]:
        """A pair of frames lies as many positions behind the one before as the model counts in that time."""
        per_second = self.model.config.vision_config.tokens_per_second
        grids = super().video_grids(mm)
        return [
            (*grid[:3], float(seconds) * per_second)
            for grid, seconds in zip(grids, mm.get("second_per_grid_ts", torch.ones(len(grids))).tolist(), strict=True)
        ]
