"""Recipe + overrides -> one validated `Config`, with the origin of every value. No torch.

`compose` reads, merges and validates; `stage_configs` gives each stage its own full Config; `save_resolved` writes what
a run used, so that composing the saved file gives an equal Config.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from vlrft.config import Config
from vlrft.config_keys import default_of, suggest
from vlrft.recipe import ConfigError, flatten, mask, origin_of, read_recipe, recipe_names, unmask

__all__ = ["Composed", "ConfigError", "Stage", "compose", "recipe_names", "save_resolved", "stage_configs"]

Overrides = Sequence[str | Mapping[str, Any]] | Mapping[str, Any]

_KEY = re.compile(r"[A-Za-z_]\w*(\[\d+\])*(\.\w[\w-]*(\[\d+\])*)*")
_SOURCES = re.compile(
    r"(?P<block>(?:stages\[\d+\]\.)?data\.(?:train|eval))(?P<mixture>\.mixture)?(?P<rest>(?:[.\[].*)?)"
)
_STAGE_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """A validated config and where it came from."""

    config: Config
    origins: dict[str, str]
    """Dotted key of each value that is not a default -> `file:line`, the override, or `python`."""
    recipe_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a run."""

    name: str
    """Unique in the run, fit for a file name."""
    kind: Literal["sft", "grpo"]
    config: Config
    """The top-level blocks with the stage's own laid over them; its `stages` holds this stage only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Override:
    key: str
    value: Any
    shown: str


def compose(recipe: str | Path | Mapping[str, Any] | Config, overrides: Overrides = ()) -> Composed:
    """Read `recipe`, apply `overrides` in order (the later wins), validate the whole and every stage.

    `recipe` is a packaged name (`detection/bccd_tiny`), a path (`./my.yaml`), a mapping or a Config. An override is
    `train.learning_rate=1e-5` (value in YAML), or a mapping from dotted keys to Python values; a list entry is
    `rewards.funcs[0].weight`, a stage `stages[0].train.steps` or, by its name, `stages.sft.train.steps`. `${` has no
    special meaning. Raises ConfigError with one line per problem.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    source = read_recipe(recipe)
    origins = dict(source.origins)
    try:
        tree = OmegaConf.create(mask(source.values))
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{error.full_key}: a config holds what YAML can say: {reason}") from error
    applied: list[_Override] = []
    for asked in _parse_overrides(overrides):
        item = _fitting_source(tree, _resolve_stage(asked, tree))
        applied.append(item)
        _apply(tree, item)
        for key in [k for k in origins if k == item.key or k.startswith((f"{item.key}.", f"{item.key}["))]:
            if not isinstance(item.value, Mapping):
                del origins[key]
        origins |= {key: item.shown for key, _ in flatten(item.value, item.key)}
    values = unmask(OmegaConf.to_container(tree))
    config = _validate(values, origins)
    stages = _stages(config, origins)
    _refuse_shadowed(applied, config, stages)
    leaves = {key: origin for key, _ in flatten(values) if (origin := origin_of(key, origins)) is not None}
    return Composed(config=config, origins=leaves, recipe_name=source.name)


def stage_configs(config: Config) -> list[Stage]:
    """Each stage's full Config: its own blocks laid over the top-level ones, lists replaced. Raises ConfigError."""
    return _stages(config, {})


def with_absolute_paths(config: Config) -> Config:
    """A copy whose data folders, and a local model folder, no longer depend on where the command was given."""
    copy = config.model_copy(deep=True)
    copy.data.root = _absolute(copy.data.root)
    if copy.model.model_name_or_path is not None and Path(copy.model.model_name_or_path).expanduser().is_dir():
        copy.model.model_name_or_path = _absolute(copy.model.model_name_or_path)
    for stage in copy.stages:
        own = (stage.model_extra or {}).get("data")
        if isinstance(own, dict) and isinstance(own.get("root"), str):
            own["root"] = _absolute(own["root"])
    return copy


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def save_resolved(composed: Composed, path: Path) -> None:
    """Write the resolved config as YAML to `path`, and the origins to `config_origins.json` beside it.

    `compose(path).config` equals `composed.config`.
    """
    from omegaconf import OmegaConf

    path.parent.mkdir(parents=True, exist_ok=True)
    text = OmegaConf.to_yaml(OmegaConf.create(mask(composed.config.model_dump())))
    path.write_text(unmask(text), encoding="utf-8")
    record = {"recipe": composed.recipe_name, "origins": composed.origins}
    origins_path = path.with_name("config_origins.json")
    origins_path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _parse_overrides(overrides: Overrides) -> list[_Override]:
    import yaml
    from omegaconf import OmegaConf

    if isinstance(overrides, str):
        raise ConfigError(f"overrides must be a list such as [{overrides!r}], not one string")
    parsed: list[_Override] = []
    for item in [overrides] if isinstance(overrides, Mapping) else overrides:
        if isinstance(item, Mapping):
            parsed += [_Override(key=_clean_key(k, k), value=v, shown=f"override {k}={v!r}") for k, v in item.items()]
            continue
        key, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"override {item!r} is not KEY=VALUE; write for example train.steps=200")
        try:
            value = unmask(OmegaConf.to_container(OmegaConf.from_dotlist([f"value={mask(text)}"])))["value"]
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or "it cannot be read"
            raise ConfigError(
                f"override {item!r}: the value is not valid YAML: {problem}; inside [] and {{}} a space follows every "
                f"colon and comma, and a text with signs of YAML is quoted: {key}='\"...\"'"
            ) from error
        parsed.append(_Override(key=_clean_key(key, item), value=value, shown=f"override {item}"))
    return parsed


def _clean_key(key: str, shown: str) -> str:
    key = re.sub(r"\.(\d+)(?=\.|\[|$)", r"[\1]", key)
    if not _KEY.fullmatch(key):
        raise ConfigError(f"override {shown!r}: {key!r} is not a dotted key; write for example train.steps=200")
    return key


def _resolve_stage(item: _Override, tree: Any) -> _Override:
    """`stages.sft.train.steps` -> `stages[0].train.steps`."""
    match = re.match(r"stages\.([\w-]+)", item.key)
    if match is None:
        return item
    stages = tree.get("stages") or default_of("stages")
    names = [stage.get("name") or stage.get("kind") for stage in stages]
    if match.group(1) not in names:
        raise ConfigError(f"{item.shown}: no stage {match.group(1)!r}; stages of this recipe: {', '.join(names)}")
    key = f"stages[{names.index(match.group(1))}]{item.key[match.end() :]}"
    return _Override(key=key, value=item.value, shown=item.shown)


def _apply(tree: Any, item: _Override) -> None:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    head, bracket, _ = item.key.partition("[")
    if bracket and OmegaConf.select(tree, head) is None and (default := default_of(head)) is not None:
        OmegaConf.update(tree, head, mask(default))
    try:
        OmegaConf.update(tree, item.key, mask(item.value), merge=True)
    except IndexError as error:
        raise ConfigError(f"{item.shown}: {head} has only {len(OmegaConf.select(tree, head))} entries") from error
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise ConfigError(f"{item.shown}: cannot be set: {str(error).partition(chr(10))[0]}") from error


def _fitting_source(tree: Any, item: _Override) -> _Override:
    """`data.train.mixture[0].limit` and `data.train[0].limit` are one key; the recipe may list its sources either way.

    Raises ConfigError for a key of the whole source where the recipe lists several.
    """
    from omegaconf import ListConfig, OmegaConf

    match = _SOURCES.fullmatch(item.key)
    if match is None or not (match["mixture"] or match["rest"]):
        return item
    block, rest = match["block"], match["rest"]
    if isinstance(OmegaConf.select(tree, block), ListConfig):
        if rest and not rest.startswith("["):
            count = len(OmegaConf.select(tree, block))
            raise ConfigError(
                f"{item.shown}: {block} is a list of {count} sources in this recipe, each with its own {rest[1:]}; "
                f"write {block}.mixture[0]{rest}"
            )
        return replace(item, key=f"{block}{rest}")
    return replace(item, key=f"{block}.mixture{rest}") if rest.startswith("[") else item


def _listed(key: str) -> str:
    """The key under which a recipe that gives `data.train` as a list of sources says `data.train.mixture[0].limit`."""
    match = _SOURCES.fullmatch(key)
    return f"{match['block']}{match['rest']}" if match and match["mixture"] else key


def _validate(values: Any, origins: Mapping[str, str], prefix: str = "") -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = [line for problem in error.errors() for line in _explain(problem, origins, prefix)]
    lines = list(dict.fromkeys(lines))
    start = "" if len(lines) == 1 else f"{len(lines)} problems in the config:\n  "
    raise ConfigError(start + "\n  ".join(lines))


def _explain(problem: Any, origins: Mapping[str, str], prefix: str) -> list[str]:
    """One readable line for each thing that a pydantic error is about."""
    key = prefix + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
    key = key.lstrip(".")

    def line(at: str, text: str) -> str:
        at = at if any(k.startswith(f"{at}.") or k == at for k in origins) else _listed(at)
        inside = [o for k, o in origins.items() if k.startswith((f"{at}.", f"{at}[")) and o.startswith("override ")]
        origin = inside[0] if inside else origin_of(at, origins)
        return f"{text} ({origin})" if origin else text

    if problem["type"] == "extra_forbidden":
        leaves = [leaf for leaf, _ in flatten(problem["input"], key)]
        return [line(leaf, f"unknown key {leaf}; {suggest(leaf)}") for leaf in leaves]
    if problem["type"] == "missing":
        return [line(key, f"{key}: is required and not given")]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return [line(key, f"{prefix}: {message}" if prefix else message)]
    return [line(key, f"{key}: {message[0].lower()}{message[1:]}, got {problem['input']!r:.80}")]


def _stages(config: Config, origins: Mapping[str, str]) -> list[Stage]:
    from omegaconf import OmegaConf

    if not config.stages:
        raise ConfigError("stages is empty: a run needs at least one, for example stages=[{kind: grpo}]")
    found: list[Stage] = []
    for i, stage in enumerate(config.stages):
        name, prefix = stage.name or stage.kind, f"stages[{i}]"
        if any(name == other.name for other in found):
            raise ConfigError(f"{prefix}: a second stage is called {name!r}; give it a name of its own: name: {name}2")
        if not _STAGE_NAME.fullmatch(name):
            raise ConfigError(f"{prefix}: name {name!r} must be fit for a file name (letters, digits, '_', '-', '.')")
        extra = dict(stage.model_extra or {})
        if "stages" in extra:
            raise ConfigError(f"{prefix}.stages: a stage holds no stages")
        base = OmegaConf.create(mask(_without_replaced(config.model_dump(exclude={"stages"}), extra)))
        values = unmask(OmegaConf.to_container(OmegaConf.merge(base, mask(extra))))
        values["stages"] = [{"kind": stage.kind, "name": name}]
        found.append(Stage(name=name, kind=stage.kind, config=_validate(values, origins, prefix)))
    return found


def _without_replaced(base: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`base` without the blocks in whose place `extra` has a list (of sources): a list replaces, it does not merge."""
    kept = dict(base)
    for key, value in extra.items():
        if isinstance(kept.get(key), dict) and isinstance(value, Mapping):
            kept[key] = _without_replaced(kept[key], value)
        elif isinstance(kept.get(key), dict) and isinstance(value, list):
            del kept[key]
    return kept


def _refuse_shadowed(applied: Sequence[_Override], config: Config, stages: Sequence[Stage]) -> None:
    """An override that every stage's own value hides would do nothing, which its author cannot have meant."""
    own = [{key for key, _ in flatten(stage.model_extra or {})} for stage in config.stages]
    for item in applied:
        if not item.key.startswith("stages") and all(item.key in keys for keys in own):
            instead = " or ".join(f"stages.{stage.name}.{item.key}" for stage in stages)
            raise ConfigError(f"{item.shown} has no effect: every stage sets its own; set {instead}")
