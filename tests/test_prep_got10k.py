"""GOT-10k as tracking."""

from __future__ import annotations

from pathlib import Path

import pytest
from published_files import Row, judged, picture, read_located

from vlrft.data.problems import DataError, SampleError

NAME = "GOT-10k_Val_000001"
INFO = """[METAINFO]
url: https://example.org/v
anno_fps: 10Hz
object_class: anteater
motion_class: walking
major_class: mammal
root_class: animal
resolution: (40, 30)
"""


def _sequence(root: Path, boxes: list[str], absent: list[int] | None = None, info: str = INFO) -> Path:
    folder = root / "val" / NAME
    for number in range(1, len(boxes) + 1):
        picture(folder / f"{number:08d}.jpg")
    (folder / "groundtruth.txt").write_text("".join(f"{box}\n" for box in boxes))
    (folder / "absence.label").write_text("".join(f"{a}\n" for a in absent or [0] * len(boxes)))
    (folder / "cover.label").write_text("8\n" * len(boxes))
    (folder / "meta_info.ini").write_text(info)
    (root / "val" / "list.txt").write_text(f"{NAME}\n")
    return root


def _boxes(count: int) -> list[str]:
    return [f"{i}.0000,2.0000,10.0000,20.5000" for i in range(count)]


def test_rows(tmp_path: Path) -> None:
    rows, left_out = read_located("got-10k", _sequence(tmp_path, _boxes(12)), split="val", frames=4)
    assert left_out == []
    folder = tmp_path / "val" / NAME
    (row,) = rows
    assert row == {
        "id": NAME,
        "task": "tracking",
        "prompt": "the anteater",
        "videos": [{"frames": [str(folder / f"{n:08d}.jpg") for n in (1, 4, 7, 10)], "fps": 10 / 3}],
        "answer": [[x, 2.0, x + 10, 22.5] for x in (0.0, 3.0, 6.0, 9.0)],
        "boxes": {"space": "abs_original"},
        "meta": {
            "object_class": "anteater", "motion_class": "walking", "major_class": "mammal", "root_class": "animal",
            "given_frames": 1, "frame_numbers": [1, 4, 7, 10], "cover": [8, 8, 8, 8],
        },
        "width": 40,
        "height": 30,
    }  # fmt: skip
    made = judged(row)
    assert made.target == row["answer"]
    assert made.meta["duration"] == pytest.approx(1.2)
    assert len(read_located("got-10k", folder, frames=None)[0][0]["answer"]) == 12
    assert len(read_located("got-10k", tmp_path / "val")[0][0]["answer"]) == 8


def test_byte_order_marks(tmp_path: Path) -> None:
    _sequence(tmp_path, _boxes(12))
    plain = read_located("got-10k", tmp_path, split="val")
    folder = tmp_path / "val" / NAME
    names = ("groundtruth.txt", "absence.label", "cover.label", "meta_info.ini")
    for file in (tmp_path / "val" / "list.txt", *(folder / name for name in names)):
        file.write_text("\ufeff" + file.read_text(), encoding="utf-8")
    assert len(plain[0]) == 1
    assert read_located("got-10k", tmp_path, split="val") == plain


def test_absent_frames_are_null_and_the_given_one_shows_the_object(tmp_path: Path) -> None:
    _sequence(tmp_path, ["0,0,0,0", "1,2,10,20", "nan,nan,nan,nan", "3,2,10,20"], [1, 0, 1, 0])
    (row,), _ = read_located("got-10k", tmp_path, split="val", frames=3)
    assert row["answer"] == [[1.0, 2.0, 11.0, 22.0], None, [3.0, 2.0, 13.0, 22.0]]
    assert row["meta"]["frame_numbers"] == [2, 3, 4]
    assert judged(row).target[1] is None


def test_odd_sequences(tmp_path: Path) -> None:
    _sequence(tmp_path, ["1,2,10,20", "35,2,10,20", "3,2,0,20"])
    reasons = [
        "has 3 pictures, not 4",
        "00000002.jpg: box [35.0, 2.0, 45.0, 22.0] reaches outside the 40x30 picture",
        "00000003.jpg: box [3.0, 2.0, 3.0, 22.0] has no area",
    ]
    assert read_located("got-10k", tmp_path, split="val", frames=4) == ([], ["; ".join(reasons)])
    (row,), _ = read_located("got-10k", tmp_path, split="val", frames=4, keep_published=True)
    assert row["meta"]["flags"] == reasons
    assert judged(row).target == [[1.0, 2.0, 11.0, 22.0], [35.0, 2.0, 40.0, 22.0], None]


@pytest.mark.parametrize(
    ("boxes", "absent", "reason"),
    [
        (["1,2,10,20"], None, "states its first box only, as the sequences of test do"),
        (["1,2,10,20", "0,0,0,0"], [0, 1], "shows its object in no picture but the given one"),
        (["0,0,0,0", "1,2,10,20"], [1, 0], "shows its object in less than two pictures from its first appearance on"),
    ],
)
def test_sequences_that_ask_for_nothing(
    tmp_path: Path, boxes: list[str], absent: list[int] | None, reason: str
) -> None:
    assert read_located("got-10k", _sequence(tmp_path, boxes, absent), split="val", frames=2, keep_published=True) == (
        [],
        [reason],
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"groundtruth.txt": "1,2,3\n1,2,3,4\n"}, r"groundtruth\.txt:1: has 3 numbers, not 4"),
        ({"groundtruth.txt": "a,2,3,4\n"}, r"groundtruth\.txt:1: .* are not numbers"),
        ({"groundtruth.txt": "1,2,3,4\n" * 3}, r"absence\.label: has 2 numbers, but groundtruth\.txt 3 boxes"),
        ({"meta_info.ini": INFO.replace("10Hz", "often")}, r"anno_fps 'often' in meta_info\.ini is no rate"),
        ({"meta_info.ini": INFO.replace("(40, 30)", "40x30")}, r"resolution '40x30' in meta_info\.ini is not"),
        ({"meta_info.ini": "no ini"}, r"meta_info\.ini: cannot be read"),
        ({"00000003.jpg": ""}, "has 3 pictures, but 2 boxes"),
    ],
)
def test_broken_sequences(tmp_path: Path, change: Row, says: str) -> None:
    _sequence(tmp_path, _boxes(2))
    for name, text in change.items():
        (tmp_path / "val" / NAME / name).write_text(text)
    with pytest.raises(SampleError, match=says):
        read_located("got-10k", tmp_path, split="val", frames=2)


def test_settings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="frames is 1; the first is given"):
        read_located("got-10k", tmp_path, frames=1)
    with pytest.raises(DataError, match=r"neither list\.txt nor folders with groundtruth\.txt"):
        read_located("got-10k", tmp_path)
