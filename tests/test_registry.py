"""Names to objects: tables, module references, file references, and the words for a name that is none of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from vlrft.registry import UnknownNameError, load_reference, resolve

TABLE = {"sqrt": "math:sqrt", "sampler": object()}


def test_table_entries_are_imported_or_taken_as_they_are() -> None:
    assert resolve("sqrt", TABLE, kind="function") is math.sqrt
    assert resolve("sampler", TABLE, kind="function") is TABLE["sampler"]


def test_module_reference_bypasses_the_table() -> None:
    assert resolve("math:floor", TABLE, kind="function") is math.floor


def test_file_reference_loads_the_file_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class Marker: pass\n")
    first = resolve(f"{file}:Marker", {}, kind="reward")
    assert resolve(f"{file}:Marker", {}, kind="reward") is first


def test_unknown_name_lists_the_nearest_and_all_valid_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve("sqtr", TABLE, kind="function")
    text = str(caught.value)
    assert "unknown function 'sqtr'" in text
    assert "did you mean 'sqrt'?" in text
    assert "valid: sampler, sqrt" in text
    assert "'package.module:attr'" in text


def test_broken_references_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"none\.py:f.*no file"):
        load_reference(f"{tmp_path}/none.py:f")
    with pytest.raises(AttributeError, match="math has no attribute 'nope'"):
        load_reference("math:nope")
    with pytest.raises(ModuleNotFoundError, match="vlrft_no_such_module"):
        load_reference("vlrft_no_such_module:f")
