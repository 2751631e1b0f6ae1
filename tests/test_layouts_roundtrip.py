"""Native rows to every layout and back, in memory and through files: nothing is lost, whatever the rows hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vlrft.data.convert import Request, convert
from vlrft.data.layouts import LAYOUTS, from_native, same, to_native
from vlrft.data.native import read_native
from vlrft.data.problems import Quarantine
from vlrft.data.tasks import TASKS
from vlrft.data.write import RowWriter

Row = dict[str, Any]
PNG = b"\x89PNG and more"
FILM = b"\x1aE\xdf\xa3 film"

words = st.text(max_size=12) | st.sampled_from(
    ["<image>", "a <video> b", "<bbox>", "<answer>4</answer>", "\n x ", "😀"]
)
numbers = st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
boxes = st.lists(st.floats(0, 1000), min_size=4, max_size=4)
labelled = st.lists(st.fixed_dictionaries({"bbox": boxes, "label": words}), max_size=3)
answers = words | numbers | boxes | labelled | st.lists(words, max_size=3) | st.lists(boxes | st.none(), max_size=3)
paths = st.text(alphabet="ab/._- ", min_size=1, max_size=8).map(lambda name: f"m/{name}x.png")
images = st.lists(paths | st.just({"bytes": PNG}) | paths.map(lambda p: {"path": p}), max_size=3)
videos = st.lists(
    paths
    | st.fixed_dictionaries({"path": paths}, optional={"start": st.floats(0, 5), "end": st.floats(6, 9)})
    | st.fixed_dictionaries({"frames": st.lists(paths, min_size=1, max_size=3), "fps": st.floats(1, 30)})
    | st.fixed_dictionaries({"bytes": st.just(FILM)}, optional={"start": st.floats(0, 5), "end": st.floats(6, 9)}),
    max_size=2,
)
metas = st.dictionaries(
    st.text(max_size=6) | st.sampled_from(["labels", "options", "think", "system"]), plain, max_size=4
)
spaces = st.sampled_from(["abs_original", "abs_input", "norm_1000", "norm_999", "norm_1"])
stated = st.fixed_dictionaries({"space": spaces}, optional={"box": boxes})


@st.composite
def native_rows(draw: st.DrawFn) -> Row:
    """A native row as the tasks would take it, with media before the text or between its pieces."""
    row: Row = {"id": draw(words.filter(bool) | st.integers(0, 99))}
    for name, strategy in (("images", images), ("videos", videos)):
        if draw(st.booleans()):
            row[name] = draw(strategy)
    slots = [{"type": "image"}] * len(row.get("images", ())) + [{"type": "video"}] * len(row.get("videos", ()))
    if draw(st.booleans()):
        row["prompt"] = draw(words.filter(str.strip))
    else:
        texts = [{"type": "text", "text": text} for text in ["Where?", *draw(st.lists(words, max_size=3))]]
        row["prompt"] = [{"role": "user", "content": draw(st.permutations([*slots, *texts]))}]
    optional = {
        "answer": answers,
        "task": st.sampled_from(sorted(TASKS)),
        "meta": metas,
        "boxes": stated,
        "width": st.integers(1, 99),
        "height": st.integers(1, 99),
    }
    for name, strategy in optional.items():
        if draw(st.booleans()):
            row[name] = draw(strategy)
    return row


@pytest.mark.parametrize("layout", LAYOUTS)
@given(row=native_rows())
def test_native_to_layout_and_back_is_the_same_row(layout: str, row: Row) -> None:
    given_row = json.dumps(row, default=repr)
    made = from_native(layout, row, where="x")
    assert json.dumps(row, default=repr) == given_row, "the row that was given has been changed"
    assert same(to_native(layout, made, where="x"), row)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(row=native_rows())
def test_slots_of_the_written_row_are_its_media(layout: str, row: Row) -> None:
    """Without our key, a peer's reader finds as many items as the native row has."""
    assume(not isinstance(row.get("answer"), str) or row["answer"].strip())  # refused: no answer
    made = from_native(layout, row, where="x")
    made.pop("_vlrft", None)
    if layout == "r1v" and "<" in json.dumps(made.get("problem", "")):
        return
    back = to_native(layout, made, where="x")
    for name in ("images", "videos"):
        assert len(back.get(name) or ()) == len(row.get(name) or ())


def _rows(path: Path) -> list[Row]:
    return [row for _, row in read_native(path, split=None, images=Path("/media"), quarantine=Quarantine())]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=8)
@given(rows=st.lists(native_rows(), min_size=1, max_size=6, unique_by=lambda row: str(row["id"])))
def test_native_file_to_layout_file_and_back(
    layout: str, suffix: str, rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("files")
    for row in rows:
        row["images"] = [
            "m/a.png" if isinstance(item, dict) and "bytes" in item else item for item in row.get("images", ())
        ]
        row["videos"] = [
            "m/a.mp4" if isinstance(item, dict) and "bytes" in item else item for item in row.get("videos", ())
        ]
        row.setdefault("answer", "x")
    source = folder / "native.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = convert(Request(form="native", source=str(source), out=folder / f"there{suffix}", to=layout))
    assert first.left_out == []
    convert(Request(form=layout, source=str(folder / f"there{suffix}"), out=folder / f"back{suffix}"))
    expected, got = _rows(source), _rows(folder / f"back{suffix}")
    assert len(got) == len(expected)
    for one, other in zip(expected, got, strict=True):
        assert one == other


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("layout", [None, *LAYOUTS])
@settings(max_examples=5)
@given(
    clips=st.lists(
        st.fixed_dictionaries({"bytes": st.just(FILM)}, optional={"start": st.floats(0, 5), "end": st.floats(6, 9)}),
        min_size=1,
        max_size=2,
    )
)
def test_encoded_clips_keep_their_range(
    layout: str | None, suffix: str, clips: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("clips")
    row = {"id": "r", "prompt": "When?", "videos": clips, "answer": "x", "task": "open_qa"}
    with RowWriter(folder / "native.parquet") as writer:
        writer.write(row, where="x")
    there, back = folder / f"there{suffix}", folder / f"back{suffix}"
    report = convert(Request(form="native", source=str(folder / "native.parquet"), out=there, to=layout))
    assert report.left_out == []
    convert(Request(form=layout or "native", source=str(there), out=back))
    ((_, read),) = read_native(back, split=None, images=folder, quarantine=Quarantine())
    assert read["videos"] == clips
