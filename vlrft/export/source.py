"""Which of a run's weights are exported, as a loaded model."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vlrft import checkpoint as checkpoints
from vlrft.adapters import has_adapters, plain_state_dict, save_adapter
from vlrft.compose import compose, stage_configs
from vlrft.config import Config
from vlrft.log import UserError
from vlrft.models import load_family
from vlrft.models.base import Family
from vlrft.runfolder import CONFIG, SUMMARY

logger = logging.getLogger(__name__)


class ExportError(UserError):
    """A run that cannot be exported, or an export that is not the run's model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is exported."""

    family: Family
    config: Config
    """Of the last stage."""
    what: str
    """In words."""
    adapter: Callable[[Path], None] | None = None
    """Of a run with adapters: writes them to a folder in peft's form."""


def open_source(run: Path, *, checkpoint: str | None) -> Source:
    """The trained model of a finished run; of another one its newest checkpoint; or the checkpoint of that name.

    Raises ExportError for a folder without a run, a run without weights yet, and an unknown checkpoint.
    """
    if not (run / CONFIG).is_file():
        raise ExportError(f"no run in {run}: {CONFIG} is missing; give the folder that 'vlrft train' wrote to")
    config = stage_configs(compose(run / CONFIG).config)[-1].config
    is_finished = (run / SUMMARY).is_file() and (run / "model").is_dir()
    if checkpoint is None and is_finished:
        adapter = run / "adapter"
        return Source(
            family=load_family(config.model.trained_at(run / "model"), config.data),
            config=config,
            what=f"the trained model of {run}",
            adapter=partial(_copy_adapter, adapter) if adapter.is_dir() else None,
        )
    path = _checkpoint(run, checkpoint)
    if checkpoint is None:
        logger.warning("%s is not finished: this is its newest checkpoint, %s", run, path.name)
    return _of_checkpoint(path, config, what=f"checkpoint {path.name} of {run}")


def _of_checkpoint(path: Path, config: Config, *, what: str) -> Source:
    """The model with a checkpoint's weights, adapters merged."""
    family = load_family(config.model, config.data)
    checkpoints.load(path).load_weights(family.model)
    if not has_adapters(family.model):
        return Source(family=family, config=config, what=what)
    plain = load_family(config.model.model_copy(update={"adapter": None}), config.data)
    plain.model.load_state_dict(plain_state_dict(family.model))
    return Source(family=plain, config=config, what=what, adapter=partial(save_adapter, family.model))


def _copy_adapter(adapter: Path, folder: Path) -> None:
    """adapter_config.json, which names the base model, and adapter_model.safetensors."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / name).is_file():
            raise ExportError(f"{adapter / name} is missing: export the whole model with --merge")
        shutil.copy2(adapter / name, folder / name)


def _checkpoint(run: Path, name: str | None) -> Path:
    complete = {path.name: path for path in checkpoints.complete(run)}
    if not complete:
        raise ExportError(
            f"{run} has no weights yet: no checkpoint is finished; go on with: vlrft train --resume {run}"
        )
    if name is not None and name not in complete:
        raise ExportError(f"{run} has no checkpoint {name!r}; there are: {', '.join(complete)}")
    return complete[name] if name is not None else list(complete.values())[-1]
