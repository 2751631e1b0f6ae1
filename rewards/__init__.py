"""Rewards that can be verified: pure functions of a parsed completion, a target and its metadata. No torch here.

    from vlrft import rewards
    rewards.score("box.iou", "<think>...</think><answer>[0, 0, 10, 10]</answer>", [0, 0, 10, 20]).value  # 0.5

`table.py` lists them, `judge.py` weighs several into one Score, `specs.py` checks such a list without a model, `trl.py`
gives them TRL's signature and `adapters.py` those of other trainers.
"""

if __name__ != "vlrft.rewards":  # pragma: no cover - guarded by tests/test_layout.py
    raise ModuleNotFoundError("import vlrft.rewards, not rewards")

from vlrft.rewards.base import FLAGS, Reward, RewardError, TargetError
from vlrft.rewards.call import check_target, names, score, scorer
from vlrft.rewards.judge import Judge
from vlrft.rewards.specs import check
from vlrft.rewards.table import REWARDS
from vlrft.rewards.trl import as_trl

__all__ = [
    "FLAGS",
    "REWARDS",
    "Judge",
    "Reward",
    "RewardError",
    "TargetError",
    "as_trl",
    "check",
    "check_target",
    "names",
    "score",
    "scorer",
]
