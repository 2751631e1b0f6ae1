"""Qwen2.5-VL: coordinates in pixels of the image as the vision tower sees it, after resizing."""

from __future__ import annotations

from vlrft.models.qwen_vl import QwenVL


class Qwen25VL(QwenVL):
    coord_space = "abs_input"
