"""What a caller from another trainer says of the rewards, brought into one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlrft.config import RewardsConfig, RewardSpec
from vlrft.rewards.finding import Named, look_up
from vlrft.rewards.gates import read_gate
from vlrft.rewards.given import spec_of
from vlrft.rewards.keys import documented
from vlrft.rewards.plain import plain
from vlrft.rewards.signature import as_meant, fits, options_of
from vlrft.rewards.specs import Spec, read_block, read_specs

Rewards = Named | RewardSpec | Mapping[Any, Any] | Sequence[Spec] | RewardsConfig
"""One reward by name, or a function; names with weights; a list as `rewards.funcs` of a recipe; or the whole block
`rewards`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that a caller says of the rewards; picklable, so that a judge can be built again elsewhere."""

    specs: tuple[RewardSpec, ...]
    name: str
    single: bool
    """One reward by its name, or a function: messages need not say which."""
    target: str
    """Column or key of the targets."""
    meta: Mapping[str, Any]
    """What is equal for all rows."""
    json_target: bool
    correct: str | None
    combine: str
    lenient: bool
    max_errors: int
    num_generations: int | None


def settings_of(
    rewards: Rewards,
    options: Mapping[str, Any],
    *,
    meta: Mapping[str, Any] | None,
    target: str,
    json_target: bool,
    name: str | None,
    correct: str | None,
    combine: str | None,
    lenient: bool | None,
    num_generations: int | None,
    max_errors: int | None,
) -> Settings:
    """Raises ValueError, in one line per problem, for rewards in no known form and options that have no place."""
    single = isinstance(rewards, str) or callable(rewards)
    known = plain(dict(meta or {}))
    if isinstance(rewards, str) or callable(rewards):
        own = options_in(rewards, known)
        known = {key: value for key, value in known.items() if key not in own}
        options = {**own, **options}
    block = _block(rewards, options)
    specs = list(block.funcs)
    if options and not single:
        raise ValueError(
            f"options {sorted(options)} are for a single reward; give several theirs as kwargs, "
            '[{"func": "box.acc", "kwargs": {"t": 0.5}}, ...], or write thresholds as box.acc@0.5'
        )
    if num_generations is not None and (isinstance(num_generations, bool) or num_generations < 1):
        raise ValueError(f"num_generations is the number of completions per prompt, got {num_generations!r}")
    names = [spec.name or spec.func for spec in specs]
    correct = block.correct if correct is None else correct
    if correct is not None and (judging := read_gate("correct", correct).part) not in names:
        specs.append(RewardSpec(func=judging, weight=0.0))
    # A trainer that knows nothing of our counts must see the first error.
    stated = block.max_errors if "max_errors" in block.model_fields_set else 0
    return Settings(
        specs=tuple(specs),
        name=name or "+".join(names),
        single=single,
        target=target,
        meta=known,
        json_target=json_target,
        correct=correct,
        combine=block.combine if combine is None else combine,
        lenient=block.lenient_extraction if lenient is None else lenient,
        max_errors=stated if max_errors is None else max_errors,
        num_generations=num_generations,
    )


def options_in(reward: Named, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `meta` that are options of the reward and not documented as keys of its meta, as `score` has it."""
    known, read = options_of(look_up(reward)), documented(reward if isinstance(reward, str) else "")
    return {
        key: value
        for key, value in meta.items()
        if key in known and key not in read and fits(as_meant(value, known[key].hint), known[key].hint)
    }


def _block(rewards: Rewards, options: Mapping[str, Any]) -> RewardsConfig:
    if isinstance(rewards, RewardsConfig):
        return rewards
    if isinstance(rewards, str):
        return RewardsConfig(funcs=[RewardSpec(func=rewards, kwargs=dict(options))])
    if callable(rewards):
        return RewardsConfig(funcs=[spec_of(rewards, kwargs=dict(options))])
    if isinstance(rewards, RewardSpec):
        return RewardsConfig(funcs=[rewards])
    if isinstance(rewards, Mapping) and isinstance(rewards.get("funcs"), Sequence):
        return read_block(rewards)
    if isinstance(rewards, Mapping):
        rewards = [{"func": key, "weight": weight} for key, weight in rewards.items()]
    return RewardsConfig(funcs=read_specs(rewards, "rewards"))
