"""TRANCE, and charts with their programs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published_files import encoded, pictures, read, sample_of, write_json

from vlrft.data.problems import SampleError

PROBLEM = "The attributes of the initial objects are: [('0', 'cube', 'small', 'red', 'glass')]"


def test_trance_in_the_form_of_reason_rft(tmp_path: Path) -> None:
    views = ["t/initial_0.png", "t/final_0.png"]
    row = {"image": views, "problem": PROBLEM}
    calls = "<answer>change_size(0, 'large') change_position(0, 'front_left')</answer>"
    write_json(tmp_path / "trance_test.json", [
        {"id": "a", **row, "solution": calls},
        {"id": "b", **row, "image": [{"path": views[0]}, {"path": views[1]}], "answer": "change_color(0, 'blue')",
         "cot": "<think>It turns blue.</think><answer>change_color(0, 'blue')</answer>"},
        {"id": "c", **row, "solution": "<answer>change_color(0, 'pink') vanish(0, 'now')</answer>"},
        {"id": "d", **row, "solution": "<answer>nothing</answer>"},
        {"id": "e", **row, "image": views[:1], "solution": calls},
        {"id": "f", **row, "solution": "<answer></answer>"},
    ])  # fmt: skip
    first, last = pictures(tmp_path, *views)
    rows, left_out = read("trance", tmp_path, split="test", policy="skip", explain=False)
    assert rows == [
        {
            "id": "a", "prompt": PROBLEM, "images": [str(first), str(last)], "task": "spatial_transformation",
            "answer": [["change_size", "0", "large"], ["change_position", "0", "front_left"]], "meta": {},
        },
        {
            "id": "b", "prompt": PROBLEM, "images": [str(first), str(last)], "task": "spatial_transformation",
            "answer": [["change_color", "0", "blue"]], "meta": {"think": "It turns blue."},
        },
    ]  # fmt: skip
    odd = [
        "change_color(0, 'pink') is not among the functions and values",
        "vanish(0, 'now') is not among the functions and values",
    ]
    assert left_out == [
        f"trance_test.json:3: {odd[0]}; {odd[1]}",
        "trance_test.json:4: the solution 'nothing' holds no call func(object, value); correct the row",
        "trance_test.json:5: has 1 views, not the first and the last; correct the row",
        "trance_test.json:6: '<answer></answer>' holds no answer between its tags; correct the row",
    ]
    kept, _ = read("trance", tmp_path, split="test", policy="skip", keep_published=True)
    assert kept[2]["meta"]["flags"] == odd
    assert [sample_of(row, tmp_path).target for row in kept] == [row["answer"] for row in kept]
    prompt = kept[0]["prompt"]
    assert prompt.endswith(f"\n\n{PROBLEM}")
    assert "change_shape(object, value), value one of cube, sphere, cylinder\n" in prompt


BARS = "import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [1, 2])\nplt.savefig('bar_1.pdf')\n"
LINE = "import matplotlib.pyplot as plt\nplt.plot([1, 2])"


def test_charts_beside_their_programs(tmp_path: Path) -> None:
    for name, program in (("bar_1", BARS), ("line_1", "plt.plot(["), ("pie_1", LINE)):
        (tmp_path / f"{name}.py").write_text(program)
    (chart, _) = pictures(tmp_path, "bar_1.png", "line_1.png")
    rows, left_out = read("chart-code", tmp_path, policy="skip")
    assert rows == [
        {
            "id": "bar_1",
            "prompt": "Write the program that draws this chart.",
            "images": [str(chart)],
            "answer": BARS.strip(),
            "task": "chart_to_code",
            "meta": {},
        }
    ]
    assert left_out[0].startswith("line_1.py: its program is not Python ('[' was never closed")
    assert left_out[1].startswith("pie_1.py: no picture pie_1.png in ")
    assert sample_of(rows[0], tmp_path).target == BARS.strip()
    with pytest.raises(SampleError, match=r"line_1\.py: its program is not Python"):
        read("chart-code", tmp_path)


def test_the_table_of_chartmimic(tmp_path: Path) -> None:
    picture = encoded(tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "bar_1.py").write_text(BARS)
    ask = {"Instruction": "Redraw it.", "InputFigurePreview": {"bytes": picture, "path": None}, "Difficulty": "easy"}
    table = [
        {"ExampleID": "bar_1", "Task": "Direct Mimic", **ask, "GroundTruthFigureCode": "code/bar_1.py"},
        {"ExampleID": "line_1", "Task": "Direct Mimic", **ask, "GroundTruthFigureCode": LINE},
        {"ExampleID": "line_2", "Task": "Customized Mimic", **ask, "GroundTruthFigureCode": LINE},
        {"ExampleID": "none", "Task": "Direct Mimic", **ask, "GroundTruthFigureCode": "code/none.py"},
    ]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "test.parquet")
    rows, left_out = read("chart-code", tmp_path, policy="skip", task="Direct Mimic")
    assert rows[0] == {
        "id": "bar_1",
        "prompt": "Redraw it.",
        "images": [{"bytes": picture}],
        "answer": BARS.strip(),
        "task": "chart_to_code",
        "meta": {"Task": "Direct Mimic", "Difficulty": "easy"},
    }
    assert (rows[1]["id"], rows[1]["answer"]) == ("line_1", LINE)
    assert left_out == [
        "test.parquet:3: Task is 'Customized Mimic', not 'Direct Mimic'",
        f"test.parquet:4: no program {tmp_path / 'code/none.py'}; set the source's images to the folder that holds it",
    ]
    assert [sample_of(row, tmp_path).target for row in rows] == [BARS.strip(), LINE]


def test_tables_of_charts_and_programs(tmp_path: Path) -> None:
    picture = encoded(tmp_path)
    shown = {"image": {"bytes": picture, "path": None}}
    fenced = f"Here it is:\n```python\n{LINE}\n```"
    table = [
        {**shown, "code": fenced, "chart_type": "line"}, {**shown, "code": LINE, "chart_type": "line"},
        {"image": None, "code": BARS, "chart_type": "bar"}, {**shown, "code": "```\n```", "chart_type": "bar"},
        {**shown, "code": None, "chart_type": "bar"},
    ]  # fmt: skip
    file = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(table), file)
    rows, left_out = read("chart-code", file, policy="skip", question="Draw it again.")
    assert rows == [
        {
            "id": "train-1", "prompt": "Draw it again.", "images": [{"bytes": picture}], "answer": LINE,
            "task": "chart_to_code", "meta": {"chart_type": "line"},
        }
    ]  # fmt: skip
    assert sample_of(rows[0], tmp_path).target == LINE
    assert left_out[0] == f"2: has the program of {file}:1"
    assert left_out[1].startswith("3: no picture in 'InputFigurePreview'")
    assert left_out[2] == "4: holds no program; drop the row"
    assert left_out[3].startswith("5: no text in 'GroundTruthFigureCode' or 'code'")
