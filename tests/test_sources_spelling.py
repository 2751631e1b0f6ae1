"""Tables whose names or texts are spelt otherwise than the rule: capitals in suffixes, other encodings."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlrft.data.detect import detect_format
from vlrft.data.problems import DataError
from vlrft.data.tables import RowStream


def test_suffixes_in_capitals(tmp_path: Path) -> None:
    for name, text in (
        ("a.JSONL", '{"id": 1}\n'),
        ("b.Csv", "id\n1\n"),
        ("c.TSV", "id\tn\n1\t2\n"),
        ("d.JSON", '[{"id": 1}]'),
    ):
        (tmp_path / name).write_text(text)
        [row] = RowStream(tmp_path / name)
        assert str(row.columns["id"]) == "1"  # type: ignore[index]
    assert len(list(RowStream(tmp_path))) == 3
    (tmp_path / "e.JSONL").write_text('{"id": 1, "prompt": "q", "answer": "a"}\n')
    assert detect_format(tmp_path / "e.JSONL")[0] == "native"


def test_a_csv_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes("id,prompt\n1,one\n2,two\n3,caf\xe9\n4,four\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a.csv is not readable as CSV in UTF-8, at line 4, .*save it as UTF-8"):
        list(RowStream(file))
