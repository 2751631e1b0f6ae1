"""Qwen2-VL: coordinates on a 0-1000 grid."""

from __future__ import annotations

from vlrft.models.qwen_vl import QwenVL


class Qwen2VL(QwenVL):
    coord_space = "norm_1000"
