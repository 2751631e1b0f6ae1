"""What a recipe says of its rewards, read and checked without a model or data: `check` and the judge go by the same.

A problem is named in one line with its place, as in `rewards.funcs[1]: reward 'box.acc': option 't' must be a number`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from vlrft.config import RewardsConfig, RewardSpec
from vlrft.config_keys import suggest
from vlrft.parse import OUTPUT_MODES
from vlrft.registry import UnknownNameError
from vlrft.rewards.entry import FORM_FAMILIES, Entry, gate_of
from vlrft.rewards.gates import Gate, check_gates, read_gate
from vlrft.rewards.given import spec_of
from vlrft.rewards.schedule import check_weight, weight_at

Spec = str | Mapping[str, Any] | RewardSpec | Callable[..., Any]
"""One reward: its name, what a recipe's `rewards.funcs` says of it, that as an object, or a function itself."""


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
    problems = _Problems()
    funcs: Any = rewards
    if isinstance(rewards, Mapping):
        with problems:
            read_block({**rewards, "funcs": []})
        if problems.found and "funcs" not in rewards:
            problems.raise_if_any("rewards")
        funcs, combine, stated = rewards.get("funcs", []), "mean", rewards.get("correct")
        correct = stated if isinstance(stated, str) else None
    elif isinstance(rewards, RewardsConfig):
        combine, correct, funcs = rewards.combine, rewards.correct, rewards.funcs
    with problems:
        _ready(funcs, problems, output_mode=output_mode, combine=combine, correct=correct, where=where)
    problems.raise_if_any(where)


def read_block(block: Mapping[str, Any]) -> RewardsConfig:
    """A recipe's `rewards` block. Raises ValueError, with one line per problem, for what is no such block."""
    problems = _Problems()
    specs: list[RewardSpec] = []
    read = RewardsConfig()
    with problems:
        specs = read_specs(block.get("funcs", []))
    with problems, _in_one_line("rewards", "rewards"):
        read = RewardsConfig(**{**block, "funcs": specs})
    problems.raise_if_any("rewards")
    return read


def read_specs(rewards: Sequence[Spec], where: str = "rewards.funcs") -> list[RewardSpec]:
    """Each of them as a RewardSpec. Raises ValueError, with one line per problem, for keys and types that none has."""
    problems = _Problems()
    specs = _read_each(rewards, where, problems)
    problems.raise_if_any(where)
    return list(specs.values())


def _read_each(rewards: Sequence[Spec], where: str, problems: _Problems) -> dict[int, RewardSpec]:
    """Those that can be read, by their place in the list."""
    if isinstance(rewards, str | Mapping) or not isinstance(rewards, Sequence):
        raise ValueError(f"{where}: expected a list of rewards, got {rewards!r:.80}")
    specs = {}
    for i, item in enumerate(rewards):
        with problems, _in_one_line(_place(where, i), f"rewards.funcs[{i}]"):
            specs[i] = _read(item, _place(where, i))
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
    problems = _Problems()
    with problems:
        ready = _ready(
            rewards, problems, output_mode=output_mode, combine=combine, correct=correct, where=where, of_rows=of_rows
        )
    problems.raise_if_any(where)
    return ready


def _ready(
    rewards: Sequence[Spec],
    problems: _Problems,
    *,
    output_mode: str,
    combine: str,
    correct: str | None,
    where: str,
    of_rows: bool = False,
) -> Ready:
    """As `make_ready`; what is wrong goes to `problems`, or is raised where nothing more can be said."""
    if output_mode not in OUTPUT_MODES:
        raise ValueError(f"unknown output mode {output_mode!r}; use one of {', '.join(OUTPUT_MODES)}")
    if combine not in ("mean", "sum"):
        raise ValueError(f"rewards.combine is {combine!r}; use mean or sum")
    if not rewards:
        raise ValueError(f"{where or 'rewards'} is empty; name at least one reward ('vlrft rewards ls' lists them)")
    specs = _read_each(rewards, where, problems)
    entries: list[Entry] = []
    gates: dict[str, Gate | None] = {}
    for i, spec in specs.items():
        place, name = _place(where, i), spec.name or spec.func
        with problems, _placed(place):
            entries.append(Entry(spec))
        gates[name] = None
        with problems, _placed(place):
            gates[name] = gate_of(spec)
        with problems, _placed(place):
            check_weight(name, spec.weight)
    names = [_name(specs.get(i, item)) for i, item in enumerate(rewards)]
    with problems:
        _check_names(names, where)
    gate: Gate | None = None
    with problems:
        gate = read_gate("rewards.correct", correct) if correct is not None else None
    with problems:
        check_gates(gates, names)
    with problems:
        late = {entry.name for entry in entries if entry.second}
        check_gates({"rewards.correct": gate}, [name for name in names if name not in late])
    if len(entries) == len(rewards):  # else a weight or a reward that says what is right may be among the others
        with problems:
            _check_weights(entries, where)
    undecided = _undecided(entries) if correct is None else None
    if undecided is not None and not of_rows and not problems.found:
        raise ValueError(
            f"reward {undecided!r} pays right answers only, and no reward of the list says which are right (none of "
            f"{', '.join(f'{f}*' for f in FORM_FAMILIES)} does): add one, set rewards.correct, or give it "
            "kwargs: {correct_only: false}"
        )
    return Ready(entries=tuple(entries), correct=gate, undecided=undecided)


def _name(item: Any) -> str:
    """What an entry is called, as far as can be told of one that could not be read."""
    if isinstance(item, RewardSpec):
        return item.name or item.func
    return str(item.get("name") or item.get("func") or "") if isinstance(item, Mapping) else str(item)


def _check_names(names: Sequence[str], where: str) -> None:
    twice = sorted({name for name in names if name and names.count(name) > 1})
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
    if callable(item):
        return spec_of(item)
    if not isinstance(item, Mapping):
        raise ValueError(
            f"{place}: expected the name of a reward or a mapping with `func` (or a function), got {item!r:.80}"
        )
    keys = {str(key): value for key, value in item.items()}
    if callable(function := keys.get("func")):
        return spec_of(function, **{key: value for key, value in keys.items() if key != "func"})
    return RewardSpec(**keys)


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
        raise kind("\n".join(f"{place}: {line}" for line in str(error).splitlines())) from error


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
        lines = list(dict.fromkeys(line for error in self.found for line in str(error).splitlines()))
        if len(lines) == 1:
            raise self.found[0]
        if lines:
            raise ValueError(f"{len(lines)} problems in {where or 'rewards'}:\n" + "\n".join(f"  {x}" for x in lines))
