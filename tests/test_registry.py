"""Names to objects: tables, module references, file references, and the words for a name that is none of them."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from vlrft.registry import LoadError, UnknownNameError, load_reference, resolve

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


MANY = {f"family{i}.{name}": object() for i in range(6) for name in ("iou", "giou", "acc", "soft")}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("family3", "unknown reward 'family3', a family; it has: family3.acc, family3.giou, family3.iou, family3.soft"),
        ("family3.iuo", "did you mean 'family3.iou'? (near: "),
        ("iou", "(near: family5.iou, family4.iou"),
        ("zzz", "unknown reward 'zzz'; 'vlrft rewards ls' lists all; or give your own as 'package.module:attr'"),
        ("no/such.py", "a file; name what is meant in it, as in 'no/such.py:attr'"),
    ],
)
def test_a_long_table_is_not_listed_whole(name: str, said: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve(name, MANY, kind="reward", listing="vlrft rewards ls")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_file_without_a_name_is_told_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import math\ndef _own(): ...\nasync def per(parsed, target, meta): ...\n")
    with pytest.raises(UnknownNameError, match=r"as in '.*mine\.py:per'"):
        resolve(f"{tmp_path}/mine.py", MANY, kind="reward")


def test_modules_of_the_current_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vlrft_mine_here.py").write_text("def per(): return 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    assert load_reference("vlrft_mine_here:per")() == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(: pass\n", r"line 1: SyntaxError: invalid syntax"),
        ("import os\nimport vlrft_nope\n", r"line 2: ModuleNotFoundError: No module named 'vlrft_nope'"),
        ("x = 1\n1 / 0\n", r"line 2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", r"line 2: SystemExit: 3"),
        ("import json\njson.loads('{')\n", r"line 2: JSONDecodeError"),
    ],
)
def test_what_a_file_or_module_raises_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    (tmp_path / "vlrft_broken.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    for reference in ("vlrft_broken.py:f", "vlrft_broken:f"):
        sys.modules.pop("vlrft_broken", None)
        with pytest.raises(LoadError, match=rf"'{reference}': vlrft_broken\.py, {said}") as caught:
            load_reference(reference)
        assert "\n" not in str(caught.value)
    (tmp_path / "vlrft_broken.py").write_text("def f(): return 2\n")
    assert load_reference("vlrft_broken.py:f")() == 2, "a file that failed is loaded anew"


@pytest.mark.parametrize("reference", ["mine.py:", ":f"])
def test_half_a_reference(reference: str) -> None:
    with pytest.raises(LoadError, match="is not complete"):
        load_reference(reference)


def test_a_missing_attribute_names_the_nearest() -> None:
    with pytest.raises(AttributeError, match="math has no attribute 'squrt'; did you mean 'sqrt'"):
        load_reference("math:squrt")
