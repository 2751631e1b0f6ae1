"""What a recipe says of its rewards, read and checked without a model or data: `check` and the judge go by the same.

A problem is named in one line with its place, as in `rewards.funcs[1]: reward 'box.acc': option 't' must be a number`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from vlrft.config import RewardsConfig, RewardSpec
from vlrft.config_keys import suggest
from vlrft.parse import OUTPUT_MODES
from vlrft.registry import UnknownNameError
from vlrft.rewards.entry import FORM_FAMILIES, Entry
from vlrft.rewards.gates import Gate, check_gates, read_gate
from vlrft.rewards.schedule import weight_at

Spec = str | Mapping[str, Any] | RewardSpec
"""One reward: its name, what a recipe's `rewards.funcs` says of it, or that as an object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The rewards of a recipe, ready to be called."""

    entries: tuple[Entry, ...]
    correct: Gate | None
    undecided: str | None
    """A reward that pays right answers only, where no other one says which are right; else None."""


def check(
    rewards: Sequence[Spec] | Mapping[str, Any] | RewardsConfig,
    *,
    output_mode: str = "think",
    combine: str = "mean",
    correct: str | None = None,
    where: str = "rewards.funcs",
) -> None:
    """Raise ValueError, with one line per problem, for rewards that could not work in a run. Needs no model, no data.

    rewards: a list of rewards (names, or what a recipe's `rewards.funcs` says of each), or a whole `rewards` block with
    its own `combine` and `correct`. where: what messages call the list. Your own functions are imported, not called.

    Example: check([{"func": "box.acc", "kwargs": {"t": 5}}]) raises
    rewards.funcs[0]: reward 'box.acc' with t=5: box.acc: the threshold must lie in (0, 1], got 5
    """
    if isinstance(rewards, Mapping):
        rewards = read_block(rewards)
    if isinstance(rewards, RewardsConfig):
        combine, correct, rewards = rewards.combine, rewards.correct, rewards.funcs
    make_ready(rewards, output_mode=output_mode, combine=combine, correct=correct, where=where)


def read_block(block: Mapping[str, Any]) -> RewardsConfig:
    """A recipe's `rewards` block. Raises ValueError, with one line per problem, for what is no such block."""
    specs = read_specs(block.get("funcs", []))
    with _in_one_line("rewards", "rewards"):
        return RewardsConfig(**{**block, "funcs": specs})


def read_specs(rewards: Sequence[Spec], where: str = "rewards.funcs") -> list[RewardSpec]:
    """Each of them as a RewardSpec. Raises ValueError, with one line per problem, for keys and types that none has."""
    if isinstance(rewards, str | Mapping) or not isinstance(rewards, Sequence):
        raise ValueError(f"{where}: expected a list of rewards, got {rewards!r:.80}")
    problems = _Problems()
    specs = []
    for i, item in enumerate(rewards):
        with problems, _in_one_line(_place(where, i), f"rewards.funcs[{i}]"):
            specs.append(_read(item, _place(where, i)))
    problems.raise_if_any(where)
    return specs


def make_ready(
    rewards: Sequence[Spec],
    *,
    output_mode: str,
    combine: str,
    correct: str | None,
    where: str,
    of_rows: bool = False,
) -> Ready:
    """Find every function, bind and try its options, and check what the rewards say of each other.

    of_rows: the rows of a batch may themselves say which answers are right, so that it is no error here when no reward
    does. Raises UnknownNameError for an unknown reward, ImportError for a file that cannot be loaded, ValueError for
    options, weights, gates or names that cannot work; ValueError with one line for each where there are several.
    """
    if output_mode not in OUTPUT_MODES:
        raise ValueError(f"unknown output mode {output_mode!r}; use one of {', '.join(OUTPUT_MODES)}")
    if combine not in ("mean", "sum"):
        raise ValueError(f"rewards.combine is {combine!r}; use mean or sum")
    if not rewards:
        raise ValueError(f"{where or 'rewards'} is empty; name at least one reward ('vlrft rewards ls' lists them)")
    specs = read_specs(rewards, where)
    problems = _Problems()
    entries: list[Entry] = []
    for i, spec in enumerate(specs):
        with problems, _placed(_place(where, i)):
            entries.append(Entry(spec))
    names = [spec.name or spec.func for spec in specs]
    with problems:
        _check_names(names, where)
    gate: Gate | None = None
    with problems:
        gate = read_gate("rewards.correct", correct) if correct is not None else None
    if len(entries) == len(specs):  # else what one reward says of another would be held against that other
        with problems:
            _check_weights(entries, where)
        with problems:
            check_gates({entry.name: entry.gate for entry in entries}, names)
        with problems:
            check_gates({"rewards.correct": gate}, [entry.name for entry in entries if not entry.second])
    undecided = _undecided(entries) if correct is None else None
    if undecided is not None and not of_rows and not problems.found:
        raise ValueError(
            f"reward {undecided!r} pays right answers only, and no reward of the list says which are right (none of "
            f"{', '.join(f'{f}*' for f in FORM_FAMILIES)} does): add one, set rewards.correct, or give it "
            "kwargs: {correct_only: false}"
        )
    problems.raise_if_any(where)
    return Ready(entries=tuple(entries), correct=gate, undecided=undecided)


def _check_names(names: Sequence[str], where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{where} lists {', '.join(twice)} twice: parts are kept by name; give one a `name`")


def _check_weights(entries: Sequence[Entry], where: str) -> None:
    points = {0} | {step for e in entries if isinstance(e.spec.weight, list) for step, _ in e.spec.weight}
    for step in sorted(points):
        if not any(weight_at(entry.spec.weight, step) > 0.0 for entry in entries):
            at = f" at step {step}" if step else ""
            raise ValueError(f"{where} gives no reward a weight above 0{at}, so nothing could be learned; set one")


def _undecided(entries: Sequence[Entry]) -> str | None:
    if any(entry.judges_task for entry in entries):
        return None
    return next((entry.name for entry in entries if entry.needs_correct), None)


def _place(where: str, i: int) -> str:
    """`rewards.funcs[1]`; empty where there is but one reward, named by the caller."""
    return f"{where}[{i}]" if where else ""


def _read(item: Spec, place: str) -> RewardSpec:
    if isinstance(item, RewardSpec):
        return item
    if isinstance(item, str):
        return RewardSpec(func=item)
    if not isinstance(item, Mapping):
        raise ValueError(f"{place}: expected the name of a reward or a mapping with `func`, got {item!r:.80}")
    return RewardSpec(**{str(key): value for key, value in item.items()})


@contextmanager
def _in_one_line(place: str, in_config: str) -> Iterator[None]:
    """What pydantic says of a mapping as a ValueError with one line per problem, naming place and key.

    in_config: where such a mapping stands in a recipe, whose keys are known.
    """
    try:
        yield
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            full = f"{place}.{key}" if place else key
            if problem["type"] == "extra_forbidden":
                meant = suggest(f"{in_config}.{key}").replace(f"{in_config}.", f"{place}.")
                lines.append(f"unknown key {full}; {meant}")
            elif problem["type"] == "missing":
                lines.append(f"{full} is missing")
            else:
                said = problem["msg"][:1].lower() + problem["msg"][1:]
                lines.append(f"{full}: {said}, got {problem['input']!r:.80}")
        raise ValueError("\n".join(lines)) from error


@contextmanager
def _placed(place: str) -> Iterator[None]:
    """Put `place` before what is said of an entry, and keep the kind of the error."""
    try:
        yield
    except (ValueError, ImportError, AttributeError) as error:
        if not place:
            raise
        kinds = (UnknownNameError, ImportError, AttributeError, ValueError)
        kind = next(kind for kind in kinds if isinstance(error, kind))
        raise kind(f"{place}: {error}") from error


class _Problems:
    """Collects what is wrong, so that all of it is said at once."""

    def __init__(self) -> None:
        self.found: list[Exception] = []

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, ValueError | ImportError | AttributeError):
            return False
        self.found.append(error)
        return True

    def raise_if_any(self, where: str) -> None:
        """The one error as it was, or a ValueError that lists them all."""
        if len(self.found) == 1:
            raise self.found[0]
        lines = [line for error in self.found for line in str(error).splitlines()]
        if lines:
            raise ValueError(f"{len(lines)} problems in {where}:\n" + "\n".join(f"  {line}" for line in lines))
