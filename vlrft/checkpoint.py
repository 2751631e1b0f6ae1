"""Checkpoints that are whole or absent: written beside their place, synced to disk, then renamed into it.

`checkpoints/<name>/state.pt` holds what is small: counters, sampler, judges, schedule, every rank's random states. Each
rank writes weights and optimiser states of its share of the parameters as one safetensors file, full tensors under
`<parameter>/<state>`. So neither the number of ranks nor the strategy is in a checkpoint, and no rank ever holds all.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlrft.adapters import has_adapters, is_adapter
from vlrft.dist import World
from vlrft.log import UserError
from vlrft.shard.base import WEIGHT, States, other_tensors, parameters_once

_STATE = "state.pt"
_WRITING = ".writing-"
_DAMAGED = ".damaged-"

logger = logging.getLogger(__name__)

Entries = Iterator[tuple[str, States]]


class CheckpointError(UserError):
    """A checkpoint that does not belong to this run."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint of which a part is missing or cannot be read."""


def save(
    run_dir: Path, name: str, state: Mapping[str, Any], entries: Entries, *, keep: int, world: World | None = None
) -> Path:
    """Write `checkpoints/<name>/`, then delete all but the newest `keep`. All ranks, together.

    entries: `Strategy.entries`. `state` is that of rank 0. Names sort by age; one that is there already is of the same
    step, and stays, unless it is damaged. Raises OSError on all ranks where one cannot write.
    """
    world = world if world is not None else World()
    folder = run_dir / "checkpoints"
    final, temporary = folder / name, folder / f"{_WRITING}{name}"
    if world.gather(final.is_dir() and _is_whole(final))[0]:
        return final
    world.together(lambda: _make(folder, temporary) if world.is_main else None, (OSError,))
    own = _own_share(entries, world)
    world.together(lambda: _write_tensors(temporary / _share_name(world), own), (OSError,))
    small = {**state, "shares": world.size}
    world.together(lambda: _publish(run_dir, temporary, final, small, keep) if world.is_main else None, (OSError,))
    return final


def _publish(run_dir: Path, temporary: Path, final: Path, state: Mapping[str, Any], keep: int) -> None:
    _write_state(temporary / _STATE, state)
    if final.is_dir():
        shutil.rmtree(final.with_name(f"{_DAMAGED}{final.name}"), ignore_errors=True)
        os.rename(final, final.with_name(f"{_DAMAGED}{final.name}"))
    os.rename(temporary, final)
    _sync_folder(final.parent)
    for old in complete(run_dir)[:-keep]:
        shutil.rmtree(old)


def _write_state(path: Path, state: Mapping[str, Any]) -> None:
    # Not right into the file: PyTorch's writer says RuntimeError of a full disk.
    serialised = io.BytesIO()
    torch.save(state, serialised)
    with path.open("wb") as file:
        file.write(serialised.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def _make(folder: Path, temporary: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for torn in folder.glob(f"{_WRITING}*"):
        shutil.rmtree(torn)
    temporary.mkdir()


def _share_name(world: World) -> str:
    return f"tensors-{world.rank + 1:05d}-of-{world.size:05d}.safetensors"


def _own_share(entries: Entries, world: World) -> dict[str, Tensor]:
    """This rank's parameters, on the host: each goes to the rank that has the least so far."""
    load, own = [0] * world.size, dict[str, Tensor]()
    for name, states in entries:
        owner = load.index(min(load))
        load[owner] += sum(tensor.nbytes for tensor in states.values())
        if owner == world.rank:
            own.update({f"{name}/{key}": _kept(tensor, lasting=world.size == 1) for key, tensor in states.items()})
    return own


def _kept(tensor: Tensor, *, lasting: bool) -> Tensor:
    """On the host; a copy unless the tensor lasts and has its memory for itself, as safetensors wants it."""
    alone = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor.detach().to("cpu", copy=not (lasting and alone)).contiguous()


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path)
    except SafetensorError as error:  # how it says what the system has refused
        raise OSError(f"{path} cannot be written: {error}") from error
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def is_kept(name: str, model: nn.Module) -> bool:
    """Whether checkpoints hold this tensor of the model: of one with adapters those alone."""
    return not has_adapters(model) or is_adapter(name)


def complete(run_dir: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    folder = run_dir / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and (p / _STATE).is_file())


@dataclass(frozen=True)
class Saved:
    """A finished checkpoint. Tensors are read one by one, when they are asked for."""

    path: Path
    state: dict[str, Any]
    """What `save` was given."""

    @cached_property
    def _files(self) -> dict[str, dict[str, Any]]:
        """Of each parameter and state the open file that has it."""
        from safetensors import SafetensorError, safe_open

        found: dict[str, dict[str, Any]] = {}
        paths = sorted(self.path.glob("*.safetensors"))
        if len(paths) != self.state.get("shares"):
            raise DamagedCheckpointError(
                f"{self.path} has {len(paths)} files of tensors and should have {self.state.get('shares')}"
            )
        for path in paths:
            try:
                file: Any = safe_open(path, framework="pt")
            except SafetensorError as error:
                raise DamagedCheckpointError(f"{path} is damaged ({error})") from error
            for key in file.keys():  # noqa: SIM118 (it is no dict)
                name, _, state = key.rpartition("/")
                found.setdefault(name, {})[state] = file
        return found

    def names(self) -> set[str]:
        """Of everything that has a weight."""
        return set(self._files)

    def tensor(self, name: str, key: str = WEIGHT) -> Tensor:
        tensor: Tensor = self._files[name][key].get_tensor(f"{name}/{key}")
        return tensor

    def optimizer_states(self, name: str) -> States:
        """`exp_avg`, `exp_avg_sq`, `step` of a parameter; empty where it had none."""
        return _Unread(self, name, tuple(key for key in self._files[name] if key != WEIGHT))

    def load_weights(self, model: nn.Module) -> None:
        """Into a whole model, or its adapters. Raises CheckpointError for a model of other names or shapes."""
        everything: dict[str, Tensor] = {**parameters_once(model), **other_tensors(model)}
        theirs = {name: tensor for name, tensor in everything.items() if is_kept(name, model)}
        self._refuse_other_names(set(theirs))
        for name, tensor in theirs.items():
            found = self.tensor(name)
            if found.shape != tensor.shape:
                raise CheckpointError(
                    f"{self.path} is of another model: {name} has the shape {tuple(found.shape)} there and "
                    f"{tuple(tensor.shape)} here; resume with the model that the run began with"
                )
            with torch.no_grad():
                tensor.copy_(found)

    def _refuse_other_names(self, ours: set[str]) -> None:
        names = self.names()
        lacking, unknown = sorted(ours - names), sorted(names - ours)
        if lacking or unknown:
            said = [f"it lacks {lacking[0]}"] if lacking else []
            said += [f"the model has no {unknown[0]}"] if unknown else []
            raise CheckpointError(
                f"{self.path} is of another model: {' and '.join(said)} ({len(lacking)} names missing, "
                f"{len(unknown)} too many); resume with the model that the run began with"
            )


@dataclass(frozen=True)
class _Unread(Mapping[str, Tensor]):
    """A parameter's states, each read when it is asked for."""

    saved: Saved
    name: str
    keys_: tuple[str, ...]

    def __getitem__(self, key: str) -> Tensor:
        return self.saved.tensor(self.name, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_)

    def __len__(self) -> int:
        return len(self.keys_)


def load_latest(run_dir: Path) -> Saved | None:
    """The newest finished checkpoint that is whole; None when there is none yet.

    Raises CheckpointError for one of an older form, and where there are some but all are damaged.
    """
    damaged: DamagedCheckpointError | None = None
    for path in reversed(complete(run_dir)):
        try:
            return load(path)
        except DamagedCheckpointError as error:
            logger.warning("%s: the run goes on from the checkpoint before it, if there is one", error)
            damaged = damaged or error
    if damaged is not None:
        raise CheckpointError(
            f"{damaged}, and there is no older checkpoint: delete {run_dir / 'checkpoints'} to start this run anew"
        ) from damaged
    return None


def load(path: Path) -> Saved:
    """A finished checkpoint. Raises CheckpointError for one of an older form, DamagedCheckpointError."""
    try:
        # Our own file: it holds sampler and random states, which weights_only loading would refuse.
        state: dict[str, Any] = torch.load(path / _STATE, map_location="cpu", weights_only=False)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise DamagedCheckpointError(f"{path / _STATE} is damaged ({str(error).partition(chr(10))[0]})") from error
    if "shares" not in state:
        raise CheckpointError(f"{path} was written by an older version of vlrft: finish that run with it")
    saved = Saved(path, state)
    saved.names()
    return saved


def _is_whole(path: Path) -> bool:
    try:
        load(path)
    except DamagedCheckpointError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
