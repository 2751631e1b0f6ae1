"""Qwen3-VL: coordinates on a 0-1000 grid; features of several vision layers enter the first language layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlrft.models.qwen_vl import QwenVL


class Qwen3VL(QwenVL):
    coord_space = "norm_1000"

    def _extra_features(self, vision: Any, slots: Tensor) -> dict[str, Any]:
        deepstack = [torch.cat(list(layer)) for layer in vision.deepstack_features]
        return {"visual_pos_masks": slots, "deepstack_visual_embeds": deepstack}

    def export_name(self, name: str) -> str:
        return name
