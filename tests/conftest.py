"""Fixtures that several files of tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from rewards_of_mine import calls, mine

__all__ = ["calls", "mine"]

settings.register_profile("vlrft", deadline=None)
settings.load_profile("vlrft")

Recipe = Callable[..., dict[str, Any]]
Stage = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    """A run sets the number of threads of its process; the next file of tests finds what was there."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which generated scenes are kept for the whole test session."""
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture
def recipe(scenes: Path, tmp_path: Path) -> Recipe:
    """`recipe(train={...}, ...)`: the tiny recipe, its run in tmp_path/run."""
    from vlrft.testing import tiny_recipe

    def make(**blocks: Any) -> dict[str, Any]:
        return tiny_recipe(scenes, tmp_path / "run", **blocks)

    return make


@pytest.fixture
def stage(recipe: Recipe, tmp_path: Path) -> Stage:
    """`stage(train={...}, ...)`: a StageRun of the tiny recipe's first stage, ready for its first step."""
    from vlrft.compose import compose, stage_configs
    from vlrft.runfolder import RunFolder
    from vlrft.setup import prepare
    from vlrft.stages import open_stage

    def make(**blocks: Any) -> Any:
        composed = compose(recipe(**blocks))
        prepared = prepare(composed, stage_configs(composed.config))
        folder = RunFolder(tmp_path / "stage")
        folder.path.mkdir(exist_ok=True)
        return open_stage(prepared, prepared.stages[0], None, None, folder)

    return make
