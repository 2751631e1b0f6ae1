"""What the policy is pushed towards: advantages, policy losses, KL. Names to functions in explicit tables."""

from __future__ import annotations

from collections.abc import Mapping

from vlrft.objectives.advantage import Advantage, group, rloo
from vlrft.objectives.kl import KL_ESTIMATORS
from vlrft.objectives.loss import LOSSES

ADVANTAGES: Mapping[str, Advantage] = {"group": group, "rloo": rloo}

__all__ = ["ADVANTAGES", "KL_ESTIMATORS", "LOSSES"]
