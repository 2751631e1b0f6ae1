"""What `auto` says of the files of every published form: the form by name, or the layout whose columns they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published_files import SHARED, excerpt

from vlrft.config import DataConfig, SourceConfig
from vlrft.data.detect import detect_format
from vlrft.data.layouts import LAYOUTS, from_native
from vlrft.data.prep import FORMS
from vlrft.data.prep.signs import SIGNS
from vlrft.data.problems import DataError
from vlrft.data.sources import load_samples

COCO = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []}
FEDERATED = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
MOMENT = {"duration": 9.0, "timestamps": [[1, 2]], "sentences": ["x"]}
SCREEN = {"img_filename": "a.png", "bbox": [1, 2, 3, 4], "instruction": "x"}
TABLE = {"image": "a.png", "question": "x", "answer": "y"}
VIDEO_R1 = {
    "problem_id": 1, "problem": "x", "data_type": "video", "problem_type": "OCR", "options": [],
    "solution": "<answer>y</answer>", "path": "v.mp4",
}  # fmt: skip
GEO170K = {
    "image": "a.png",
    "conversations": [{"from": "human", "value": "<image>x Choices:\nA. 1\nB. 2"},
                      {"from": "gpt", "value": "As y is 2.\nAnswer:B"}],
}  # fmt: skip

PUBLISHED: dict[str, list[tuple[str, Any]]] = {
    "lvis": [("lvis_v1_val.json", {**COCO, "images": [{**COCO["images"][0], **FEDERATED}]})],
    "refcoco": [
        ("a.jsonl", {"raw_anns": "{}", "raw_image_info": "{}", "sentences": [], "image": "a"}),
        ("val.parquet", {**TABLE, "question_id": "1", "bbox": [1.0], "segmentation": [1.0], "iscrowd": 0}),
        ("a.jsonl", {"sent": "x", "bbox": [1, 2, 3, 4], "height": 3, "width": 4, "image": "a.png"}),
        ("a.jsonl", {"expression": "x", "bbox": [1, 2, 3, 4], "img_path": "a.png"}),
        ("refs(unc).p", None),
    ],
    "lisa": [("train/a.json", {"text": ["x"], "is_sentence": True, "shapes": []})],
    "screenspot": [("screenspot_web.json", [{**SCREEN, "data_type": "icon", "data_source": "x"}])],
    "screenspot-pro": [("annotations/vscode.json", [{**SCREEN, "id": "x", "img_size": [3, 4], "ui_type": "icon"}])],
    "gui-r1": [("test.parquet", {"image": b"", "instruction": "x", "gt_action": "click", "gt_bbox": [0.1, 0.2]})],
    "androidcontrol": [("a.json", [{"image": "a.png", "task": "x", "gt": {"action_type": "wait"}}]),
                       ("a.json", [SCREEN])],
    "charades-sta": [("a.json", {"3MSZA": MOMENT}), ("charades_sta_test.txt", None)],
    "activitynet": [("val_1.json", {"v_uqiMw7tQ1Cc": MOMENT})],
    "next-gqa": [
        ("a.json", [{**TABLE, "video": "v.mp4", "options": ["(A) x"], "duration": 3, "glue": [[1, 2]]}]),
        ("val.csv", {"video": "1", "question": "x", "answer": "0", "qid": "1", "type": "CW",
                     **{f"a{i}": "x" for i in range(5)}}),
    ],
    "video-r1": [("Video-R1-260k.json", [VIDEO_R1])],
    "vqa-rad": [("VQA_RAD Dataset Public.json",
                 [{**TABLE, "qid": 1, "image_name": "a.jpg", "answer_type": "OPEN", "phrase_type": "freeform"}])],
    "slake": [("train.json", [{**TABLE, "img_name": "a.jpg", "q_lang": "en", "answer_type": "OPEN", "qid": 1}])],
    "path-vqa": [("qas/train_vqa.pkl", None), ("train_vqa.pkl", None)],
    "omni-med-vqa": [
        ("QA_information/Open-access/ACRIMA.json",
         [{"question": "x", "gt_answer": "y", "image_path": "a.png", "option_A": "y", "option_B": "z"}]),
    ],
    "clevr-math": [
        ("a.jsonl", {"template": "addition", "id": "1", "question": "x", "image": "a.png", "label": 3}),
        ("a.json", {"info": {}, "questions": [
            {"question": "x", "image_filename": "a.png", "answer": 1, "template_filename": "addition.json"}
        ]}),
    ],
    "geo170k": [("qa_tuning.json", [GEO170K])],
    "trance": [("a.json", [{"id": "1", "image": ["a", "b"], "problem": "(..)",
                            "solution": "<answer>change_size(1, 'large')</answer>"}])],
    "chart-code": [("test.jsonl", {"Task": "direct", "ExampleID": "a", "InputFigurePreview": "a.png",
                                   "Instruction": "x", "GroundTruthFigureCode": "pass"})],
    "odinw": [("train/_annotations.coco.json", COCO), ("valid/annotations_without_background.json", COCO)],
    "got-10k": [("GOT-10k_Val_000001/groundtruth.txt", None), ("val/GOT-10k_Val_000001/groundtruth.txt", None)],
    "few-shot": [("split_zhou_Food101.json", {"train": [["a.jpg", 0, "x"]], "val": [], "test": []})],
    "geometry3k": [("2/img_diagram.png", None), ("train/2/img_diagram.png", None)],
}  # fmt: skip
"""Form -> files as it publishes them, with one row or the whole content; None = the name says all."""

FOLDERS = ("lisa", "odinw", "got-10k", "geometry3k")
"""Forms that are a folder."""

READ = {
    "coco": ("a.json", COCO, "coco"),
    "superclevr": ("a.jsonl", {"image_path": "a.png", "question": "x", "ground_truth": 4}, "r1v"),
    "geo-qa": ("a.jsonl", {"image": "a.png", "problem": "x", "solution": "<answer> 145° </answer>"}, "r1v"),
    "vlm-r1-gui": (
        "a.jsonl",
        {"id": 1, "image": ["a", "b"], "conversations": [*GEO170K["conversations"][:1], {"from": "gpt", "value": "x"}]},
        "sharegpt",
    ),
    "vlmevalkit": ("a.tsv", {"index": 1, "question": "x", "answer": "A", "image": "x" * 80}, "vlmevalkit"),
}
"""Forms whose files `auto` reads, since they are in the layout of a framework or name themselves: (.., .., as)."""


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.touch()
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([content]), path)
    elif path.suffix in (".csv", ".tsv"):
        mark = "," if path.suffix == ".csv" else "\t"
        path.write_text(f"{mark.join(content)}\n{mark.join(map(str, content.values()))}\n")
    else:
        path.write_text(json.dumps(content) + "\n")
    return path


CASES = [(form, name, content) for form, files in PUBLISHED.items() for name, content in files]


@pytest.mark.parametrize(("form", "name", "content"), CASES, ids=[f"{form}-{name}" for form, name, _ in CASES])
def test_a_published_file_is_not_taken_for_another_layout(form: str, name: str, content: Any, tmp_path: Path) -> None:
    file = write(tmp_path / name, content)
    path = tmp_path if form in FOLDERS or (content is None and "/" in name) else file
    if form == "lisa":
        path = file.parent
    with pytest.raises(DataError, match=rf"this looks like the published form {form}\b.*use `format: {form}`"):
        detect_format(path)


@pytest.mark.parametrize(
    "form", ["screenspot", "omni-med-vqa", "few-shot", "slake", "path-vqa", "refcoco", "activitynet"]
)
def test_a_folder_is_told_by_what_is_in_it(form: str, tmp_path: Path) -> None:
    write(tmp_path / PUBLISHED[form][-1][0], PUBLISHED[form][-1][1])
    with pytest.raises(DataError, match=f"looks like the published form {form}"):
        detect_format(tmp_path)


def test_every_form_has_been_looked_at() -> None:
    twins = {"screenspot-v2": "screenspot", "videorft": "video-r1"}
    assert set(PUBLISHED) | set(twins) == set(SIGNS)
    assert set(SIGNS) | set(READ) | {"voc"} == set(FORMS)
    for name, other in twins.items():
        assert FORMS[name].reader == FORMS[other].reader, "which of the two is asked for makes no difference"


@pytest.mark.parametrize("form", READ)
def test_forms_in_the_layout_of_a_framework_are_read_as_that(form: str, tmp_path: Path) -> None:
    name, content, layout = READ[form]
    assert detect_format(write(tmp_path / name, content))[0] == layout


def test_voc_folders_are_read() -> None:
    if not (SHARED / "bccd").is_dir():
        pytest.skip("no BCCD (VLRFT_SHARED_DATA names the folder of real data)")
    assert detect_format(SHARED / "bccd") == ("voc", "folders Annotations and ImageSets")


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("charades_sta.json", "charades-sta"),
        ("activitynet_captions.json", "activitynet"),
        ("nextgqa.json", "next-gqa"),
        ("ui_r1_androidcontrol.json", "androidcontrol"),
    ],
)
def test_excerpts_of_published_files(file: str, says: str) -> None:
    with pytest.raises(DataError, match=rf"{file}: this looks like the published form {says}, by its columns"):
        detect_format(excerpt(file))


def test_the_layout_can_be_asked_for_all_the_same(tmp_path: Path) -> None:
    row = {**PUBLISHED["next-gqa"][0][1][0], "answer": "(A)"}
    write(tmp_path / "rows.json", [{key: value for key, value in row.items() if key not in ("video", "image")}])
    data = DataConfig(root=str(tmp_path), task="choice")
    with pytest.raises(DataError, match="looks like the published form next-gqa"):
        load_samples(data, SourceConfig(path="rows.json"), role="train")
    write(tmp_path / "rows.json", [row])
    with pytest.raises(DataError, match="to read it by its columns alone, say `format: r1v`"):
        load_samples(data, SourceConfig(path="rows.json"), role="train")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_that_were_written_from_native_ones_are_their_layout(layout: str, tmp_path: Path) -> None:
    meta = {"glue": [[1, 2]], "options": ["a"], "problem_id": 1}
    native = {"id": "a", "prompt": "x", "images": ["a.png"], "answer": "change_size(1, 'large')", "meta": meta}
    assert detect_format(write(tmp_path / "a.jsonl", from_native(layout, native, where="x")))[0] == layout
    assert detect_format(write(tmp_path / "b.jsonl", {**native, **meta}))[0] == "native"


def test_a_few_rows_of_another_kind_do_not_make_a_form(tmp_path: Path) -> None:
    rows = [{"image": "a", "problem": "x", "solution": text} for text in ("change_size(1, 'large')", "a cat", "a dog")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert detect_format(tmp_path / "a.jsonl")[0] == "r1v"


def test_a_folder_of_other_things_names_the_list_of_forms(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{broken")
    with pytest.raises(DataError, match=r"none of the known layouts \(it holds: a\.json\).*'vlrft data ls'"):
        detect_format(tmp_path)
