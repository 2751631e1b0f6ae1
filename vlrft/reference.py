"""The policy that the KL term compares with: as the stage found it, or following the training policy by a schedule.

Without adapters it is a frozen copy, which shares with the policy what does not learn. With adapters nothing is copied
but the adapters: they stand in for the policy's own while the reference runs, or are switched off while they still
change nothing, as at the start of a run.

A reference is on disk before a checkpoint counts on it, under the stage's step of its last refresh. Which step that was
follows from the step of the checkpoint, so an older checkpoint finds the reference of its moment.
"""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlrft.adapters import adapters_off, has_adapters, is_adapter, is_blank
from vlrft.config import ObjectiveConfig
from vlrft.data.problems import DataError
from vlrft.dist import World
from vlrft.policy import Policy


class Reference(ABC):
    """Reference log-probs, and what keeps them exact over a resumed run."""

    def __init__(self, policy: Policy, objective: ObjectiveConfig, start_file: Path, world: World, step: int) -> None:
        """start_file: where the reference of the stage's start is kept; later ones stand beside it. step: of the stage,
        finished. Raises DataError where the reference of that step is lost."""
        self.model = policy.model
        self.objective = objective
        self.start_file = start_file
        self.world = world
        self.refreshed_at = self._last_refresh(step)
        """Step of the stage after which it was refreshed last; 0 = as the stage found the policy."""
        names = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
        self._written_at: int | None = None
        path = self._file(self.refreshed_at)
        # Existing where a stage was killed before its first checkpoint: it starts from the same policy again.
        if path.exists():
            found = torch.load(path, map_location=policy.model.device, weights_only=True)
            if missing := [name for name in names if name not in found]:
                raise DataError(f"{path} is of another model: {missing[0]} is not in it; start the run anew")
            self._take({name: found[name] for name in names})
            self._written_at = self.refreshed_at
        elif step:
            raise DataError(f"{path} is missing: the reference policy of this stage is lost; start the run anew")
        else:
            learning = dict(policy.model.named_parameters())
            self._take({name: learning[name].detach().clone() for name in names})
        world.barrier()  # nobody writes before all have looked
        self.save()

    @abstractmethod
    def __call__(self, policy: Any, **inputs: Any) -> dict[str, Tensor]:
        """`policy`'s output (`Policy.forward`) as the reference gives it. Call it without gradients."""

    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """The reference's values of what learns in this stage, to be changed in place."""

    @abstractmethod
    def _take(self, tensors: dict[str, Tensor]) -> None: ...

    def settle(self, hold: Callable[[Policy], Any]) -> None:
        """Once, when training has started: `hold` puts a policy of the reference's own where it runs
        (`Strategy.hold`). One that runs in the training policy's modules needs nothing."""
        return

    def after_step(self, step: int) -> None:
        """Refresh it if this step of the stage is one after which that is due: ref = alpha policy + (1 - alpha) ref."""
        if step == 0 or self._last_refresh(step) != step:
            return
        alpha, current = self.objective.ref_model_mixup_alpha, dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.mul_(1.0 - alpha).add_(current[name], alpha=alpha)
        self.refreshed_at = step

    def save(self) -> None:
        """Write it, unless it is on disk already. Before the checkpoint of a step after the refresh."""
        if self._written_at == self.refreshed_at:
            return
        if self.world.is_main:
            path = self._file(self.refreshed_at)
            temporary = path.with_suffix(".tmp")
            torch.save(dict(self.tensors()), temporary)
            os.replace(temporary, path)
        self._written_at = self.refreshed_at
        self.world.barrier()

    def forget(self, oldest_step: int) -> None:
        """Delete what no checkpoint needs any more, of which the oldest is of this step of the stage."""
        if not self.world.is_main:
            return
        needed = self._last_refresh(max(0, oldest_step))
        for path in self.start_file.parent.glob(f"{self.start_file.stem}-*{self.start_file.suffix}"):
            number = path.stem.removeprefix(f"{self.start_file.stem}-")
            if number.isdigit() and int(number) < needed:
                path.unlink()

    def _last_refresh(self, step: int) -> int:
        every = self.objective.ref_model_sync_steps
        return step // every * every if self.objective.sync_ref_model else 0

    def _file(self, refreshed_at: int) -> Path:
        if refreshed_at == 0:
            return self.start_file
        return self.start_file.with_stem(f"{self.start_file.stem}-{refreshed_at:08d}")


class FrozenCopy(Reference):
    """A second model."""

    def __init__(
        self,
        policy: Policy,
        objective: ObjectiveConfig,
        start_file: Path,
        world: World,
        step: int,
        *,
        shares_frozen: bool = True,
    ) -> None:
        """shares_frozen: parameters that do not learn are the policy's own, not copies; not for strategies that cut
        parameters up."""
        frozen = {id(p): p for p in policy.model.parameters() if not p.requires_grad} if shares_frozen else {}
        family = copy.copy(policy.family)
        family.model = copy.deepcopy(policy.model, dict(frozen)).requires_grad_(False).eval()
        family.lm_head = family.model.lm_head
        self.copy = Policy(family, policy.head_options, policy.attention)
        self.held: Any = self.copy
        super().__init__(policy, objective, start_file, world, step)

    def settle(self, hold: Callable[[Policy], Any]) -> None:
        self.held = hold(self.copy)

    def __call__(self, policy: Any, **inputs: Any) -> dict[str, Tensor]:
        output: dict[str, Tensor] = self.held(**inputs)
        return output

    def tensors(self) -> Mapping[str, Tensor]:
        learning = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        own = dict(self.copy.model.named_parameters())
        return {name: own[name].data for name in learning}

    def _take(self, tensors: dict[str, Tensor]) -> None:
        own = dict(self.copy.model.named_parameters())
        with torch.no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(tensor)


class OwnAdapters(Reference):
    """The policy's model with other adapters, or with none."""

    def __call__(self, policy: Any, **inputs: Any) -> dict[str, Tensor]:
        was_training = policy.training
        policy.eval()
        try:
            with adapters_off(self.model) if self.is_base() else standing_in(self.model, self.stored):
                output: dict[str, Tensor] = policy(**inputs)
        finally:
            policy.train(was_training)
        return output

    def tensors(self) -> Mapping[str, Tensor]:
        return self.stored

    def _take(self, tensors: dict[str, Tensor]) -> None:
        self.stored = tensors

    def is_base(self) -> bool:
        """Whether the reference is the model without adapters, which is then what runs."""
        everything = {name: p for name, p in self.model.named_parameters() if is_adapter(name)}
        return is_blank({**everything, **self.stored})


@contextmanager
def standing_in(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, these values stand in the place of the model's parameters of the same names."""
    parameters = dict(model.named_parameters())
    own = {name: parameters[name].data for name in tensors}
    for name, tensor in tensors.items():
        parameters[name].data = tensor
    try:
        yield
    finally:
        for name, data in own.items():
            parameters[name].data = data


def build_reference(
    policy: Policy, objective: ObjectiveConfig, start_file: Path, world: World, *, step: int, shares_frozen: bool = True
) -> Reference | None:
    """The reference of a stage of which `step` steps are done, while the policy is whole; None with beta 0, which has
    none. See Reference, FrozenCopy. Call its `settle` before its first use."""
    if objective.beta == 0.0:
        return None
    if has_adapters(policy.model):
        return OwnAdapters(policy, objective, start_file, world, step)
    return FrozenCopy(policy, objective, start_file, world, step, shares_frozen=shares_frozen)
