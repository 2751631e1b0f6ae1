"""The quarantine file: once per item, over runs and processes."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from vlrft.data.images import MediaError
from vlrft.data.problems import DataError
from vlrft.data.quarantine import BadMedia, QuarantineFile

BAD = MediaError("/d/é.mp4", "is damaged; fetch it again")


def test_once_per_item_and_decoder(tmp_path: Path) -> None:
    path = tmp_path / "run" / "quarantine.jsonl"
    quarantine = QuarantineFile(path)
    assert quarantine.entries() == []
    assert not path.parent.exists()
    assert quarantine.add(BAD, sample="s1", decoder="pyav")
    assert not quarantine.add(BAD, sample="s2", decoder="pyav")
    assert quarantine.add(BAD, sample="s1", decoder="decord")
    assert QuarantineFile(path).add(MediaError("/d/x.png", "is truncated"), sample="s3")
    assert not QuarantineFile(path).add(BAD, sample="s1", decoder="pyav")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows[0] == {
        "media": "/d/é.mp4", "sample": "s1", "reason": "is damaged; fetch it again", "decoder": "pyav",
    }  # fmt: skip
    assert [row["decoder"] for row in rows] == ["pyav", "decord", None]
    assert quarantine.entries()[2] == BadMedia("/d/x.png", "s3", "is truncated", None)


def test_a_line_cut_by_a_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    QuarantineFile(path).add(BAD, sample="s1")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"media": "/d/y')
    assert len(QuarantineFile(path).entries()) == 1
    QuarantineFile(path).add(MediaError("/d/y.png", "is truncated"), sample="s2")
    assert [entry.media for entry in QuarantineFile(path).entries()] == ["/d/é.mp4", "/d/y.png"]


@pytest.mark.parametrize("line", ["no json", '{"media": "/x"}', "[1]"])
def test_another_file_is_not_appended_to(tmp_path: Path, line: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=r"notes\.txt:1 is no entry of a quarantine file"):
        QuarantineFile(path).add(BAD, sample="s1")
    assert path.read_text() == line + "\n"


def add_all(path: str, process: int) -> int:
    quarantine = QuarantineFile(path)
    return sum(quarantine.add(MediaError(f"/d/{i}.mp4", "is damaged"), sample=f"{process}-{i}") for i in range(40))


def test_ranks_share_the_file(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        added = pool.starmap(add_all, [(str(path), process) for process in range(3)])
    assert sum(added) == 40
    assert sorted(entry.media for entry in QuarantineFile(path).entries()) == sorted(f"/d/{i}.mp4" for i in range(40))


def test_only_what_was_added_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quarantine, other = (QuarantineFile(tmp_path / "q.jsonl") for _ in "ab")
    parsed: list[int] = []
    parse = QuarantineFile._parse

    def note(self: QuarantineFile, content: bytes, before: int) -> list[BadMedia]:
        parsed.append(len(content))
        return parse(self, content, before)

    monkeypatch.setattr(QuarantineFile, "_parse", note)
    for i in range(50):
        assert quarantine.add(MediaError(f"/d/{i}.mp4", "is damaged"), sample="s")
    assert max(parsed) < 120, "one line at most"
    assert other.add(MediaError("/d/x.mp4", "is damaged"), sample="s")
    assert not quarantine.add(MediaError("/d/x.mp4", "is damaged"), sample="s"), "what another wrote counts"
    with (tmp_path / "q.jsonl").open("a") as file:
        file.write("no entry\n")
    with pytest.raises(DataError, match=r"q\.jsonl:52 is no entry"):
        quarantine.add(MediaError("/d/y.mp4", "is damaged"), sample="s")


def test_a_file_that_was_moved_away_is_started_anew(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    quarantine = QuarantineFile(path)
    assert quarantine.add(BAD, sample="s")
    path.rename(tmp_path / "old.jsonl")
    assert quarantine.add(BAD, sample="s")
    path.write_bytes(b"")
    assert quarantine.add(BAD, sample="s")
    assert len(quarantine.entries()) == 1
