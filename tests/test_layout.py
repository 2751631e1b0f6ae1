"""The shape of the project: links, packages, wheel, import weight, house limits, recipes, constraints."""

from __future__ import annotations

import ast
import os
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vlrft.compose import compose, stage_configs
from vlrft.recipe import recipe_names, recipe_path, recipe_summary

ROOT = Path(__file__).resolve().parent.parent
MOUNTED = ("data", "eval", "recipes", "rewards")
CODE_FOLDERS = ("vlrft", *MOUNTED, "tests", "benchmarks")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def code_files() -> list[Path]:
    found: list[Path] = []
    for folder in CODE_FOLDERS:
        for parent, _, names in os.walk(ROOT / folder, followlinks=False):
            found += [Path(parent) / name for name in names if name.endswith(".py")]
    return sorted(found)


def python(code: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.parametrize("name", MOUNTED)
def test_links_are_relative_and_resolve(name: str) -> None:
    link = ROOT / "vlrft" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == ROOT / name


def test_mounted_folders_refuse_their_bare_name() -> None:
    done = python(
        "import importlib, sys\nsys.path.insert(0, '')\n"
        f"for name in {MOUNTED}:\n"
        "    try:\n        importlib.import_module(name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        assert str(error) == f'import vlrft.{name}, not {name}', error\n"
        "    else:\n        raise SystemExit(f'{name} can be imported')\n"
    )
    assert done.returncode == 0, done.stderr


def test_package_list_equals_the_folders() -> None:
    folders = set()
    for parent, _, names in os.walk(ROOT / "vlrft", followlinks=True):
        if any(name.endswith(".py") for name in names):
            assert "__init__.py" in names, f"{parent} holds modules but no __init__.py"
            folders.add(".".join(Path(parent).relative_to(ROOT).parts))
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(folders)


def test_wheel_holds_all(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("vlrft", "constraints", *MOUNTED):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    done = python(f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})", cwd=tree)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        (Path(parent) / name).relative_to(ROOT).as_posix()
        for parent, _, names in os.walk(ROOT / "vlrft", followlinks=True)
        for name in names
        if not parent.endswith("__pycache__")
    }
    assert held == expected


def test_import_is_light() -> None:
    modules = "vlrft vlrft.types vlrft.registry vlrft.config vlrft.compose vlrft.coords vlrft.parse vlrft.rewards"
    done = python(
        f"import sys, {', '.join(modules.split())}\n"
        "heavy = {'torch', 'transformers', 'vllm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert done.returncode == 0, done.stderr


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in code_files()}
    too_long = {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > 400}
    assert not too_long
    package = [n for path, n in lengths.items() if path.name != "__init__.py" and ROOT / "tests" not in path.parents]
    assert statistics.median(package) <= 150


def test_functions_are_short() -> None:
    too_long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in code_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > 80
    ]
    assert not too_long


def test_files_have_names_that_say_something() -> None:
    empty_words = re.compile(r"(^|_)(utils?|common|misc|helpers?|manager|v\d+)(_|$)")
    assert not [str(path.relative_to(ROOT)) for path in code_files() if empty_words.search(path.stem)]


def test_nothing_is_left_half_done() -> None:
    marker = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|raise NotImplemented" + r"Error")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in code_files()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if marker.search(line)
    ]
    assert not found


def test_no_exception_is_swallowed() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in code_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or all(isinstance(statement, ast.Pass) for statement in node.body))
    ]
    assert not found


def test_there_are_recipes() -> None:
    assert "detection/bccd_tiny" in recipe_names()
    assert not list((ROOT / "recipes").rglob("*.yml")), "recipes end in .yaml"


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_composes_and_is_short(name: str) -> None:
    assert stage_configs(compose(name).config)
    assert len(recipe_path(name).read_text().splitlines()) <= 40
    assert recipe_summary(name), f"{name} needs a header comment that says what it does"


@pytest.mark.parametrize("stack", ["cpu", "cuda"])
def test_constraints_pin_every_dependency_to_an_allowed_version(stack: str) -> None:
    lines = (ROOT / "constraints" / f"{stack}.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins), "names and versions only"
    versions = {canonicalize_name(name): version for name, _, version in (pin.partition("==") for pin in pins)}
    assert len(versions) == len(pins)
    extras = PROJECT["project"]["optional-dependencies"]
    groups = ["dev", "trackers", "detection", "bench", "peft"] if stack == "cpu" else ["vllm", "deepspeed", "peft"]
    wanted = [Requirement(r) for r in PROJECT["project"]["dependencies"] + [r for g in groups for r in extras[g]]]
    for requirement in wanted:
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not pinned in constraints/{stack}.txt"
        assert requirement.specifier.contains(version), f"{requirement} excludes {version}"
