"""Recipes as files: find one by name, read its YAML, and remember where each key was said."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrft.config import Config
from vlrft.log import UserError

_INTERPOLATION, _MASK = "${", "\ue000{"


class ConfigError(UserError):
    """A recipe or override that cannot be used; the message names the key, its origin and the next step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a recipe says, before overrides and validation."""

    name: str
    """Recipe name, file stem, or `python` for a config given as an object."""
    values: dict[str, Any]
    """Nested plain data; only what the recipe says."""
    origins: dict[str, str]
    """Dotted key (blocks and leaves) -> `file:line`, or `python`."""


def mask(value: Any) -> Any:
    """Hide `${` from OmegaConf, which would read it as an interpolation: text in a config means just itself."""
    if isinstance(value, str):
        return value.replace(_INTERPOLATION, _MASK)
    if isinstance(value, Mapping):
        return {key: mask(item) for key, item in value.items()}
    return [mask(item) for item in value] if isinstance(value, list | tuple) else value


def unmask(value: Any) -> Any:
    """The inverse of `mask`."""
    if isinstance(value, str):
        return value.replace(_MASK, _INTERPOLATION)
    if isinstance(value, Mapping):
        return {key: unmask(item) for key, item in value.items()}
    return [unmask(item) for item in value] if isinstance(value, list) else value


def flatten(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """`("rewards.funcs[0].weight", 0.9)` and so on: leaves by dotted key. Lists of plain values are leaves."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from flatten(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for i, item in enumerate(value):
            yield from flatten(item, f"{key}[{i}]")
    else:
        yield key, value


def origin_of(key: str, origins: Mapping[str, str]) -> str | None:
    """Where `key`, or else the nearest block around it, was said."""
    while key:
        if key in origins:
            return origins[key]
        key = re.sub(r"(\.[^.\[]*|\[\d+\]|^[^.\[]*)$", "", key)
    return None


def recipes_dir() -> Path:
    """The folder of the recipes that come with the package."""
    import vlrft.recipes

    return Path(vlrft.recipes.__path__[0])


def recipe_names() -> list[str]:
    """Names of the packaged recipes, e.g. `detection/bccd_tiny`."""
    root = recipes_dir()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def recipe_path(recipe: str | Path) -> Path:
    """The file of a recipe given by name (`detection/bccd_tiny`) or by path (`./my.yaml`).

    Raises ConfigError when there is none, with the nearest name.
    """
    text = str(recipe)
    if isinstance(recipe, Path) or text.endswith((".yaml", ".yml")) or text.startswith((".", "/", "~")):
        path = Path(recipe).expanduser()
        if path.is_file():
            return path
        raise ConfigError(f"no recipe file {text}; a packaged recipe goes by its name, see 'vlrft recipes ls'")
    names = recipe_names()
    if text in names:
        return recipes_dir() / f"{text}.yaml"
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.4)
    near += [name for name in names if name.rpartition("/")[2] == text.rpartition("/")[2]]
    hint = f"did you mean {near[0]!r}? " if near else ""
    hint = f"did you mean the file './{text}.yaml'? " if Path(f"{text}.yaml").is_file() else hint
    raise ConfigError(f"no recipe {text!r}; {hint}'vlrft recipes ls' lists them; a file is given as './my.yaml'")


def recipe_summary(name: str) -> str:
    """The first line of the recipe's header comment."""
    first = recipe_path(name).read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def read_recipe(recipe: str | Path | Mapping[str, Any] | Config) -> Recipe:
    """Read a recipe by name or path, or take a mapping or Config as one. Raises ConfigError."""
    if isinstance(recipe, Config):
        # Not what was set, but what differs from the defaults: attributes may have been assigned since.
        recipe = recipe.model_dump(exclude_defaults=True)
    if isinstance(recipe, Mapping):
        values = dict(recipe)
        return Recipe(name="python", values=values, origins={key: "python" for key, _ in flatten(values)})
    path = recipe_path(recipe)
    by_name = path.parent.is_relative_to(recipes_dir()) and not isinstance(recipe, Path)
    name, shown = (str(recipe), f"recipe {recipe}") if by_name else (path.stem, str(recipe))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown}: cannot be read: {error}") from error
    return Recipe(name=name, values=_parse(text, shown), origins=_lines(text, shown))


def _parse(text: str, shown: str) -> dict[str, Any]:
    import yaml
    from omegaconf import OmegaConf

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            what = "is empty" if root is None else "is not a mapping of blocks"
            raise ConfigError(f"{shown}: the recipe {what}; start from one of 'vlrft recipes ls'")
        values = OmegaConf.to_container(OmegaConf.create(mask(text)))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{shown}:{mark.line + 1}" if mark is not None else shown
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{where}: not valid YAML: {problem}") from error
    parsed: dict[str, Any] = unmask(values)
    return parsed


def _lines(text: str, shown: str) -> dict[str, str]:
    import yaml

    origins: dict[str, str] = {}

    def walk(node: Any, key: str) -> None:
        if isinstance(node, yaml.MappingNode):
            for name, item in node.value:
                inner = f"{key}.{name.value}" if key else str(name.value)
                origins[inner] = f"{shown}:{name.start_mark.line + 1}"
                walk(item, inner)
        elif isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                origins[f"{key}[{i}]"] = f"{shown}:{item.start_mark.line + 1}"
                walk(item, f"{key}[{i}]")

    walk(yaml.compose(text, Loader=yaml.SafeLoader), "")
    return origins
