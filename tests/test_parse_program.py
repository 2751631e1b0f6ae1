"""read_program: which part of an answer is the program."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.parse.program import read_program


@pytest.mark.parametrize(
    ("text", "program", "blocks"),
    [
        ("x = 1", "x = 1", 1),
        ("```python\nx = 1\n```", "x = 1", 1),
        ("```Py\nx = 1\n```", "x = 1", 1),
        ("~~~python3\nx = 1\n~~~", "x = 1", 1),
        ("text\n```\nx = 1\n```\nmore", "x = 1", 1),
        ("```json\n{}\n```\n```python\nx = 1\n```", "x = 1", 1),
        ("```\ny\n```\n```python\nx = 1\n```", "x = 1", 1),
        ("```python\nx = 1\n```\n```python\ny = 2\n```", "x = 1", 2),
        ("```python\nx = 1", "x = 1", 1),
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''", 1),
        ("  if x:\n    y", "  if x:\n    y", 1),
        ("```json\n{}\n```", None, 0),
        ("```python\n\n```", None, 1),
        ("", None, 0),
        (" \n ", None, 0),
    ],
)
def test_golden(text: str, program: str | None, blocks: int) -> None:
    assert read_program(text) == (program, blocks)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="`~ \npythonx=1\t\u2028"))
def test_any_text_is_read(text: str) -> None:
    program, blocks = read_program(text)
    assert blocks >= 0
    assert program is None or program.strip()


@pytest.mark.parametrize("piece", ["`", "```", "```python\n", "~~~\n", " ", "\n", "```python x"])
def test_a_megabyte_takes_no_time(piece: str) -> None:
    started = time.perf_counter()
    read_program(piece * (1_000_000 // len(piece)))
    assert time.perf_counter() - started < 3.0
