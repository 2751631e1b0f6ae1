"""The explicit table of rewards.

A new reward is one function `(parsed, target, meta, **options) -> Score` in its family's file and one line here. Two
other shapes: `(group) -> list[Score]` sees all completions of a sample after the others (base.py, GroupReward), and a
class whose instances are callables with `state_dict` and `load_state_dict` keeps state over a run.
"""

from __future__ import annotations

REWARDS: dict[str, str] = {
    "box.iou": "vlrft.rewards.box:iou",
    "box.giou": "vlrft.rewards.box:giou",
    "box.acc": "vlrft.rewards.box:acc",
    "format.think_answer": "vlrft.rewards.format:think_answer",
}
"""Name to `module:function`. `name@number` sets `t` (box.acc@0.5) or, for ranks, `k` (ranked.recall@5)."""
