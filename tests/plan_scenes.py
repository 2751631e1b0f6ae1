"""Plans of the tiny recipe, for several files of tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlrft.compose import compose
from vlrft.plan import Plan, plan
from vlrft.plan.stage import StagePlan
from vlrft.testing import tiny_recipe

MIB = 2**20
Recipe = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def planned(scenes: Path) -> Callable[..., Plan]:
    """`planned(memory=..., train={...})`: the plan of the tiny recipe on the CPU, or on `gpus`; each made once."""
    made: dict[str, Plan] = {}

    def make(*, gpus: int = 0, memory: int | None = None, **blocks: Any) -> Plan:
        key = repr((gpus, memory, blocks))
        if key not in made:
            recipe = tiny_recipe(scenes, scenes / "run", **blocks)
            made[key] = plan(compose(recipe), gpus=gpus, memory=memory)
        return made[key]

    return make


def only(made: Plan) -> StagePlan:
    (stage,) = made.stages
    return stage
