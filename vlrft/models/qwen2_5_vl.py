"""Qwen2.5-VL: coordinates in pixels of the image as the vision tower sees it; a video's rotary time is in seconds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlrft.models.qwen_vl import QwenVL
from vlrft.types import Clip


class Qwen25VL(QwenVL):
    coord_space = "abs_input"

    def timing(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """Seconds between a pair of frames and the next."""
        return {"second_per_grid_ts": torch.tensor([self.temporal / clip.fps for clip in clips])}
