"""Start or go on: which of the two a recipe means, by what its `train.output_dir` holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrft.compose import Composed, compose, with_absolute_paths
from vlrft.config import Config
from vlrft.config_keys import is_resumable
from vlrft.dist import World
from vlrft.log import UserError
from vlrft.recipe import flatten
from vlrft.runfolder import CONFIG, SUMMARY, RunFolderError, with_templates

_SHOWN = 10
"""Differing keys that a message lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What there is to do for a recipe."""

    composed: Composed
    """The recipe, or the config of the run that goes on."""
    path: Path
    """`train.output_dir`."""
    is_there: bool = False
    """Whether the recipe's run is in `path`."""
    changed: bool = False
    """Whether a resumed run's config differs from what it was, in keys that may (`config_keys.RESUMABLE`)."""
    summary: dict[str, Any] | None = None
    """Of a run that is finished; there is nothing to do."""


def find_run(composed: Composed, world: World) -> Found:
    """Look into `train.output_dir`; rank 0 does, and all ranks get its answer.

    Raises RunFolderError on all ranks for a folder with a run of another recipe, naming what differs.
    """
    found = world.together(lambda: _find(composed) if world.is_main else None, (UserError,))
    answer = world.gather(found)[0]
    assert answer is not None, "rank 0 has looked"
    return answer


def _find(composed: Composed) -> Found:
    path = Path(composed.config.train.output_dir).expanduser().resolve()
    if not (path / CONFIG).is_file():
        return Found(composed=composed, path=path)  # a folder that cannot take a run is refused when the run starts
    kept = compose(path / CONFIG)
    asked = _as_kept(composed.config, kept.config)
    was = dict(flatten(kept.config.model_dump()))
    now = dict(flatten(asked.model_dump()))
    differing = [key for key in {**was, **now} if was.get(key) != now.get(key) and key != "train.output_dir"]
    if refused := [key for key in differing if not is_resumable(key)]:
        raise RunFolderError(_refusal(path, refused, was, now))
    if (path / SUMMARY).is_file():
        summary = json.loads((path / SUMMARY).read_text(encoding="utf-8"))
        return Found(composed=kept, path=path, is_there=True, summary=summary)
    changes = {key: now[key] for key in differing if key in now}
    composed = compose(path / CONFIG, [changes]) if changes else kept
    return Found(composed=composed, path=path, is_there=True, changed=bool(changes))


def _as_kept(config: Config, kept: Config) -> Config:
    """`config` as a run writes it down: absolute paths, prompt templates as whole texts."""
    templates = kept.data.prompt_template
    return with_templates(with_absolute_paths(config), templates if isinstance(templates, dict) else ())


def _refusal(path: Path, keys: list[str], was: dict[str, Any], now: dict[str, Any]) -> str:
    lines = [f"{key}: {was.get(key)!r:.80} in the run, {now.get(key)!r:.80} now" for key in keys[:_SHOWN]]
    more = f"\n  and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return (
        f"{path} holds a run of another recipe. What differs:\n  " + "\n  ".join(lines) + more + "\n"
        f"Go on with that run as it is: vlrft train --resume {path}; or give this one its own place: "
        "train.output_dir=..."
    )
