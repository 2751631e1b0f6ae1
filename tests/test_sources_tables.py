"""Raw rows from every container: read in pieces, dealt to ranks, continued exactly, refused with a clear message."""

from __future__ import annotations

import base64
import csv
import itertools
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrft.data.detect import detect_format
from vlrft.data.native import read_native
from vlrft.data.prep.vlmevalkit import rows as vlmevalkit_rows
from vlrft.data.problems import DataError, Quarantine, SampleError
from vlrft.data.tables import RawRow, RowStream, shard
from vlrft.data.write import RowWriter, data_uri

Row = dict[str, Any]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(60)
ROWS: list[Row] = [{"id": f"r{i}", "prompt": f"question {i}", "answer": str(i)} for i in range(7)]


def _columns(raw: RawRow) -> Row:
    assert isinstance(raw.columns, dict), raw.columns
    return raw.columns


def _write_all(folder: Path, rows: list[Row]) -> dict[str, Path]:
    """The same rows in each container."""
    paths = {kind: folder / f"rows.{kind}" for kind in ("jsonl", "json", "parquet", "csv", "tsv")}
    paths["object"] = folder / "object.json"
    paths["jsonl"].write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths["json"].write_text(json.dumps(rows))
    paths["object"].write_text(json.dumps({"info": {"year": 2026}, "data": rows}))
    pq.write_table(pa.Table.from_pylist(rows), paths["parquet"], row_group_size=3)
    for kind, delimiter in (("csv", ","), ("tsv", "\t")):
        with paths[kind].open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return paths


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return _write_all(tmp_path_factory.mktemp("containers"), ROWS)


KINDS = ("jsonl", "json", "object", "parquet", "csv", "tsv")


@pytest.mark.parametrize("kind", KINDS)
def test_every_container_gives_the_same_rows(containers: dict[str, Path], kind: str) -> None:
    raw = list(RowStream(containers[kind]))
    assert [row.columns for row in raw] == ROWS
    assert [row.number for row in raw] == list(range(1, 8))
    assert raw[2].where == f"{containers[kind]}:3"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("taken", [0, 1, 3, 5, 7])
def test_a_stream_goes_on_exactly_where_it_was_stopped(containers: dict[str, Path], kind: str, taken: int) -> None:
    stream = RowStream(containers[kind])
    rows = iter(stream)
    first = [next(rows).columns for _ in range(taken)]
    state = json.loads(json.dumps(stream.state_dict()))
    again = RowStream(containers[kind])
    again.load_state_dict(state)
    assert first + [row.columns for row in again] == ROWS


@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=4), world=st.integers(1, 5), taken=st.integers(0, 6))
def test_ranks_share_all_rows_and_each_goes_on_alone(
    counts: list[int], world: int, taken: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    for part, count in enumerate(counts):
        lines = [json.dumps({"id": f"{part}-{i}"}) + "\n" for i in range(count)]
        (folder / f"part-{part}.jsonl").write_text("".join(lines))
    expected = [f"{part}-{i}" for part, count in enumerate(counts) for i in range(count)]
    dealt = []
    for rank in range(world):
        stream = RowStream(folder, rank=rank, world=world)
        rows = iter(stream)
        seen = [_columns(row)["id"] for row in itertools.islice(rows, taken)]
        resumed = RowStream(folder, rank=rank, world=world)
        resumed.load_state_dict(stream.state_dict())
        seen += [_columns(row)["id"] for row in resumed]
        assert seen == expected[rank::world]
        dealt += seen
    assert sorted(dealt) == sorted(expected)
    assert [list(shard(expected, rank, world)) for rank in range(world)] == [expected[r::world] for r in range(world)]


def test_a_rank_resumes_in_the_middle_of_its_share(containers: dict[str, Path]) -> None:
    for rank in range(3):
        stream = RowStream(containers["parquet"], rank=rank, world=3)
        first = next(iter(stream)).columns
        again = RowStream(containers["parquet"], rank=rank, world=3)
        again.load_state_dict(stream.state_dict())
        assert [first, *(row.columns for row in again)] == ROWS[rank::3]


def test_a_position_in_other_files_is_refused(containers: dict[str, Path]) -> None:
    state = RowStream(containers["jsonl"]).state_dict()
    with pytest.raises(DataError, match="saved position belongs to other files"):
        RowStream(containers["parquet"]).load_state_dict(state)
    with pytest.raises(DataError, match="another number of ranks"):
        RowStream(containers["jsonl"], world=2).load_state_dict(state)
    with pytest.raises(DataError, match="rank 2 of 2: a rank is a number from 0 to 1"):
        RowStream(containers["jsonl"], rank=2, world=2)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_text_files_are_read_in_pieces(tmp_path: Path, kind: str) -> None:
    """12 MB of rows pass through less than 1 MB of memory."""
    path = tmp_path / f"big.{kind}"
    payload = "x" * 20_000
    with path.open("w") as file:
        file.write("id,answer\n" if kind == "csv" else "")
        for i in range(600):
            file.write(f"{i},{payload}\n" if kind == "csv" else json.dumps({"id": i, "answer": payload}) + "\n")
    stream = RowStream(path)
    tracemalloc.start()
    count = sum(1 for _ in stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 600
    assert peak < 2**20


def test_parquet_is_read_in_pieces(tmp_path: Path) -> None:
    """24 MB in row groups of ours pass through a fraction of that; measured in a process of its own."""
    path = tmp_path / "big.parquet"
    with RowWriter(path) as writer:
        for i in range(480):
            noise = base64.b16encode(i.to_bytes(4) * 8).ljust(50_000, bytes([i % 256]))
            writer.write({"id": str(i), "images": [{"bytes": noise}]}, where="x")
    assert pq.ParquetFile(path).metadata.num_row_groups == 8
    code = (
        "import sys, pyarrow as pa; from vlrft.data.tables import RowStream; "
        "print(sum(len(r.columns['images'][0]['bytes']) for r in RowStream(sys.argv[1])), "
        "pa.default_memory_pool().max_memory())"
    )
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    total, peak = map(int, out.split())
    assert total == 480 * 50_000
    assert peak < total / 2


def test_bad_lines_are_rows_that_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1}\n{"id"\n\n[1]\n{"id": 2, "answer": null}\n')
    rows = list(RowStream(path))
    assert [row.number for row in rows] == [1, 2, 4, 5]
    assert "not valid JSON" in str(rows[1].columns)
    assert "a list and not an object" in str(rows[2].columns)
    assert rows[3].columns == {"id": 2}
    (tmp_path / "rows.csv").write_text('id,answer\n1,"a,b"\n2,x,y\n')
    first, second = RowStream(tmp_path / "rows.csv")
    assert first.columns == {"id": "1", "answer": "a,b"}
    assert "more cells than the header has columns (2)" in str(second.columns)


def test_csv_cells_are_read_as_what_their_column_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    cells = {
        "images": '["a.png", "b.png"]',
        "boxes": '{"box": [1, 2, 3, 4], "space": "norm_1"}',
        "meta": "{broken",
        "answer": "[1, 2]",
        "width": "40",
        "duration": "2.5",
        "height": "tall",
        "empty": " ",
    }
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(cells))
        writer.writeheader()
        writer.writerow(cells)
    (row,) = RowStream(path)
    assert row.columns == {
        "images": ["a.png", "b.png"],
        "boxes": {"box": [1, 2, 3, 4], "space": "norm_1"},
        "meta": "{broken",
        "answer": "[1, 2]",
        "width": 40,
        "duration": 2.5,
        "height": "tall",
    }


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "rows.json",
            '{"a": {}, "b": 1}',
            "no list of rows and no object with one list; it is an object with the keys a, b",
        ),
        ("rows.json", '{"a": [], "b": []}', "an object with the keys a, b"),
        ("rows.json", "3", "it is a int"),
        ("rows.json", "{", "is not valid JSON"),
        ("rows.parquet", "PAR1", "not a readable parquet file"),
        ("rows.csv", 'id\n"a', None),
        ("rows.txt", "x", r"unknown suffix '.txt'; known: .jsonl"),
        ("rows.csv", "id\n\udcff", "not readable as CSV"),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path: Path, name: str, content: str, says: str | None) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    if says is None:
        assert [row.columns for row in RowStream(path)] == [{"id": "a"}]
        return
    with pytest.raises(DataError, match=says):
        list(RowStream(path))


def test_a_folder_of_shards_as_hubs_keep_them(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        for number in (0, 1):
            rows: list[Row] = [{"id": f"{split}{number}", "prompt": "x", "images": ["a"], "solution": "1"}]
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / f"{split}-0000{number}.parquet")
    (tmp_path / "README.md").write_text("x")
    assert detect_format(tmp_path) == ("trl", "test-00000.parquet, prompt and images")
    assert [_columns(row)["id"] for row in RowStream(tmp_path, split="train")] == ["train0", "train1"]
    with pytest.raises(DataError, match="whose name starts with 'val'"):
        RowStream(tmp_path, split="val")


def test_media_of_native_rows_are_found_and_decoded(tmp_path: Path) -> None:
    uri = data_uri(PNG)
    assert uri.startswith("data:image/png;base64,")
    row = {
        "prompt": "x",
        "images": ["a.png", {"path": "b.png"}, {"bytes": None, "path": "c.png"}, uri, "/abs/d.png"],
        "videos": ["v.mp4", {"path": "w.mp4", "start": 1.0}, {"frames": ["f/1.png", "f/2.png"], "fps": 5}],
    }
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "images": ["data:image/png;base64,?"]}) + "\n")
    quarantine = Quarantine(policy="skip")
    ((where, made),) = read_native(path, split=None, images=Path("/m"), quarantine=quarantine)
    assert (where, made["id"]) == (f"{path}:1", "rows-1")
    assert made["images"] == ["/m/a.png", "/m/b.png", "/m/c.png", {"bytes": PNG}, "/abs/d.png"]
    assert made["videos"] == [
        "/m/v.mp4",
        {"path": "/m/w.mp4", "start": 1.0},
        {"frames": ["/m/f/1.png", "/m/f/2.png"], "fps": 5},
    ]
    (skipped,) = quarantine.skipped
    assert "not valid base64" in skipped.reason


def _vlmeval(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, ["index", "question", "image", "answer", "A", "B", "hint", "split"], delimiter="\t"
        )
        writer.writeheader()
        writer.writerows(rows)


def test_vlmevalkit_benchmarks(tmp_path: Path) -> None:
    first, second = base64.b64encode(PNG).decode(), base64.b64encode(PNG * 4000).decode()
    path = tmp_path / "MMBench.tsv"
    choice = {"index": 0, "question": "Which?", "image": first, "answer": "B", "A": "cat", "B": "dog", "hint": "Look."}
    _vlmeval(
        path,
        [
            {**choice, "split": "dev"},
            {"index": 1, "question": "What is it?", "image": "0", "answer": "a dog"},
            {"index": 2, "question": "How many?", "image": f"['{first}', '{second}']", "answer": "3"},
            {"index": 3, "question": "No answer", "image": first},
            {"index": 4, "question": "Whose?", "image": "9", "answer": "x"},
            {"index": 5, "question": "Gap?", "image": first, "answer": "B", "B": "dog"},
            {**choice, "index": 6, "split": "test"},
        ],
    )
    assert detect_format(path) == ("vlmevalkit", "suffix .tsv, columns index, question, answer, image")
    quarantine = Quarantine(policy="skip")
    rows = [row for _, row in vlmevalkit_rows(path, split="dev", images=None, quarantine=quarantine)]
    assert rows == [
        {
            "id": "0",
            "prompt": "Look.\nWhich?",
            "images": [{"bytes": PNG}],
            "answer": "B",
            "task": "choice",
            "meta": {"split": "dev", "options": ["cat", "dog"]},
        },
        {
            "id": "1",
            "prompt": "What is it?",
            "images": [{"bytes": PNG}],
            "answer": "a dog",
            "task": "open_qa",
            "meta": {},
        },
        {
            "id": "2",
            "prompt": "How many?",
            "images": [{"bytes": PNG}, {"bytes": PNG * 4000}],
            "answer": "3",
            "task": "open_qa",
            "meta": {},
        },
    ]
    reasons = [item.reason for item in quarantine.skipped]
    assert len(reasons) == 3
    assert "states no answer" in reasons[0]
    assert "row with index '9', which the file has not" in reasons[1]
    assert "leave one out" in reasons[2]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_written_rows_come_back_as_they_were(tmp_path: Path, suffix: str) -> None:
    rows: list[Row] = [
        {"id": "a", "prompt": "x", "images": ["p.png"], "answer": [1, 2.5], "meta": {"k": {"d": [1, None]}}},
        {"id": "b", "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "y"}]}],
         "images": [{"bytes": PNG}], "answer": "text", "meta": {"other": "json: no"}},
        {"id": "c", "prompt": "z", "images": [], "answer": {"action": "click"}, "boxes": {"space": "norm_1"}},
        {"id": "d", "prompt": "z", "images": ["p.png", {"bytes": PNG}], "answer": 2**70,
         "videos": [{"path": "v.mp4", "start": 1, "end": 2.5}, {"frames": ["f.png"], "fps": 2}, "w.mp4"]},
    ]  # fmt: skip
    path = tmp_path / f"rows{suffix}"
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row, where="x")
    got = [row for _, row in read_native(path, split=None, images=Path("."), quarantine=Quarantine())]
    assert got == rows
    assert [type(row["answer"]) for row in got] == [type(row["answer"]) for row in rows]


def test_uniform_columns_are_plain_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    with RowWriter(path) as writer:
        for i in range(3):
            row = {"id": str(i), "answer": i, "images": [{"bytes": PNG}], "reward_model": {"style": "rule", "n": None}}
            writer.write(row, where="x")
    schema = pq.read_schema(path)
    assert schema.field("answer").type == pa.int64()
    assert schema.field("images").type == pa.list_(pa.struct([("bytes", pa.binary())]))
    assert schema.field("reward_model").type == pa.struct([("style", pa.string()), ("n", pa.string())])


def test_a_file_appears_whole_or_not_at_all_and_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"

    class Stop(Exception):
        pass

    def interrupted() -> None:
        with RowWriter(path) as writer:
            writer.write({"id": "a"}, where="x")
            raise Stop

    with pytest.raises(Stop):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    with RowWriter(path) as writer:
        writer.write({"id": "a"}, where="x")
    with pytest.raises(DataError, match=r"rows\.jsonl exists already.*--force"):
        RowWriter(path)
    with RowWriter(path, force=True) as writer:
        writer.write({"id": "b"}, where="x")
    assert path.read_text() == '{"id": "b"}\n'
    with pytest.raises(DataError, match=r"suffix '\.csv'; rows are written as \.jsonl or \.parquet"):
        RowWriter(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("suffix", "value"), [(".jsonl", float("nan")), (".jsonl", b"raw"), (".jsonl", object()), (".parquet", object())]
)
def test_what_a_file_cannot_hold_is_a_bad_row(tmp_path: Path, suffix: str, value: Any) -> None:
    with RowWriter(tmp_path / f"rows{suffix}") as writer:
        writer.write({"id": "a"}, where="x")
        with pytest.raises(SampleError, match=r"row 2: .*correct the row"):
            writer.write({"id": "b", "answer": value}, where="row 2")
    assert [row.columns for row in RowStream(tmp_path / f"rows{suffix}")] == [{"id": "a"}]
