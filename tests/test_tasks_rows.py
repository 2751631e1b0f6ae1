"""Rows that break a rule: the error names the row, the field and the next step."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from task_rows import CASES, IMAGE_SIZE, media_of

from vlrft.data.media import MediaError, image_size
from vlrft.data.problems import SampleError
from vlrft.data.tasks import build_task
from vlrft.types import MediaPart, Sample, TextPart

SHARED = Path(os.environ.get("VLRFT_SHARED_DATA", Path(__file__).resolve().parent.parent / "../shared/data"))
WHERE = "rows.jsonl:7"
OPTIONS = {"options": ["a kite", "the sea", "none of these"]}
SPANS = {**OPTIONS, "spans": [[0.5, 1.0]]}
FAR = [{"bbox": [10, 10, 900, 700], "label": "a"}] * 2 + [{"bbox": [1, 1, 30, 30], "label": "a"}]
UNIT = [{"bbox": [0.1, 0.1, 0.5, 0.5], "label": "a"}, {"bbox": [0.2, 0.2, 0.9, 1.0], "label": "a"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


def _good(task: str) -> dict[str, Any]:
    case = next(case for case in CASES if case.task == task)
    return {**case.row, "media": case.media}


def _read(task: str, folder: Path, **changes: Any) -> Sample:
    row = {**_good(task), **changes}
    media = row.pop("media")
    row = {**row, **media_of(folder, media)} | {k: v for k, v in changes.items() if k in ("images", "videos")}
    return build_task(task).to_sample({key: value for key, value in row.items() if value is not None}, where=WHERE)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("detection", {"answer": None}, r"no `answer` \(columns"),
    ("detection", {"answer": None, "solution": "x"}, "no `answer`, but `solution`"),
    ("detection", {"answer": "[{"}, "`answer` .* is not valid JSON"),
    ("detection", {"answer": {"bbox": [1, 2, 3, 4]}}, r"write \[\{\"bbox\""),
    ("detection", {"answer": [[1, 2, 3, 4]]}, "object 0 of `answer` is"),
    ("detection", {"answer": [{"bbox": [1, 2, 30, 40], "label": "dgo"}], "meta": {"labels": ["dog"]}}, "mean 'dog'"),
    ("detection", {"answer": [*UNIT, {"bbox": [1, 2, 3, 4], "label": None}], "meta": {}}, "1 of 3 objects have no"),
    ("detection", {"meta": {"labels": []}}, "meta.labels is"),
    ("detection", {"answer": FAR, "meta": {}}, "2 of 3 boxes lie outside the 640x480 .*probably wrong.*norm_1000"),
    ("detection", {"answer": UNIT, "meta": {}}, "no coordinate of 2 boxes exceeds 1.*probably wrong.*'norm_1'"),
    ("detection", {"answer": FAR[:1], "meta": {}}, "outside the 640x480 image"),
    ("detection", {"boxes": {"space": "norm_1", "box": [1]}}, "unknown key 'box'.*stand in `answer`"),
    ("detection", {"boxes": {"space": "pixels"}}, "unknown coordinate space 'pixels'"),
    ("detection", {"meta": {"answer_style": "plain"}}, "detection has one style only"),
    ("detection", {"media": "images"}, "has 2 images; detection takes exactly one"),
    ("reasoning_grounding", {"answer": "left"}, "is not a box"),
    ("reasoning_grounding", {"meta": {"answer_style": "box_points"}}, "meta.points is missing"),
    ("reasoning_grounding", {"meta": {"points": [[1, 2, 3]]}}, "is not two finite numbers"),
    ("reasoning_grounding", {"meta": {"points": [[1, 481]]}}, r"point \[1.0, 481.0\] lies outside the 640x480"),
    ("reasoning_grounding", {"meta": {"points": [[0.2, 0.4]]}}, "fractions are 'norm_1'"),
    ("classification", {"answer": 3}, "write a text"),
    ("classification", {"answer": "catt", "meta": {"labels": ["cat", "dog"]}}, "not in meta.labels.*'cat'"),
    ("classification", {"answer": ["dog", " "]}, "reference 1 of `answer`"),
    ("classification", {"answer": "a <answer>dog</answer>"}, "holds a <think> or <answer> tag"),
    ("gui_grounding", {"answer": [10, 20]}, "not four numbers"),
    ("gui_action", {"answer": "click"}, "not valid JSON"),
    ("gui_action", {"answer": ["click"]}, "write {\"action\""),
    ("gui_action", {"answer": {"acton": "click"}}, "unknown key 'acton'; did you mean 'action'"),
    ("gui_action", {"answer": {"action": " "}}, "`answer.action` is"),
    ("gui_action", {"answer": {"action": "click", "box": [0, 0, 700, 20]}}, "outside the 640x480"),
    ("gui_action", {"answer": {"action": "click", "point": [-100, -100]}}, "lies outside"),
    ("gui_action", {"meta": {"history": [1]}}, "meta.history is"),
    ("gui_action", {"meta": {"actions": ["tap"]}}, "'click', which meta.actions does not offer"),
    ("temporal_grounding", {"answer": "1 to 2"}, "not valid JSON"),
    ("temporal_grounding", {"answer": [3, 1]}, "0 <= start <= end"),
    ("temporal_grounding", {"answer": [1]}, "not two finite numbers"),
    ("temporal_grounding", {"answer": [5, 6]}, "starts at or after the end of the video, which lasts 4 s"),
    ("temporal_grounding", {"answer": [1, 4.6]}, "ends after the video.*meta.flags to keep it"),
    ("temporal_grounding", {"meta": {"duration": "4"}}, "meta.duration is '4'"),
    ("temporal_grounding", {"meta": {"unit": "frames"}}, "meta.unit is 'frames'"),
    ("temporal_grounding", {"meta": {"unit": "relative", "answer_style": "clock"}}, "exclude each other"),
    ("temporal_grounding", {"videos": []}, "has 0 videos; temporal_grounding takes exactly one"),
    ("temporal_grounding", {"media": "", "video": "a.mp4"}, "no `videos`, but `video`"),
    ("temporal_grounding", {"images": ["a.png"]}, "has `images`, which this task does not take; use an image task"),
    ("grounded_video_qa", {"meta": OPTIONS}, "meta.spans is None"),
    ("grounded_video_qa", {"meta": {**OPTIONS, "spans": [[1, 1]]}}, "has no length"),
    ("grounded_video_qa", {"meta": {**OPTIONS, "spans": [[1, 9]]}}, "ends after the video"),
    ("grounded_video_qa", {"meta": {**SPANS, "unit": "relative"}}, "answers in seconds"),
    ("grounded_video_qa", {"meta": SPANS, "answer": "D"}, "one letter from A to C"),
    ("grounded_video_qa", {"meta": SPANS, "answer": "The sea"}, "the text of option B"),
    ("tracking", {"answer": []}, "list one box"),
    ("tracking", {"answer": [None, None]}, "absent from every frame"),
    ("tracking", {"answer": [[1, 2, 900, 4], [1, 2, 901, 4], [0, 0, 4, 4]]}, "2 of 3 boxes lie outside"),
    ("tracking", {"meta": {"given_frames": 4}}, "leave at least one to be found"),
    ("tracking", {"meta": {"given_frames": [9]}}, "leave at least one"),
    ("tracking", {"meta": {"given_frames": 1.5}}, "write how many frames"),
    ("tracking", {"meta": {"timestamps": [0, 1]}}, "for each of 4 frames"),
    ("tracking", {"meta": {"timestamps": [0, 2, 1, 3]}}, "have to rise"),
    ("tracking", {"meta": {"timestamps": [0, 10, 20, 30]}}, "the video lasts 4 s"),
    ("video_qa", {"meta": {"question_type": "chioce"}}, "did you mean 'choice'"),
    ("video_qa", {"meta": {}}, "meta.question_type is None; use one of choice, numeric"),
    ("video_qa", {"meta": {"question_type": "numeric"}, "answer": "12 cm"}, "declare what follows"),
    ("video_qa", {"meta": {"question_type": "numeric"}, "answer": True}, "not a finite number"),
    ("medical_qa", {"answer": "B"}, "not valid JSON"),
    ("medical_qa", {"answer": {"type": "open", "answer": "x"}}, "one of mcq, yesno, label"),
    ("medical_qa", {"answer": {"type": "yesno", "answer": "maybe"}}, "write yes or no"),
    ("medical_qa", {"answer": {"type": "mcq", "answer": "E"}}, "`answer.answer` is 'E'; write one letter from A to D"),
    ("medical_qa", {"meta": {"question_type": "ranked"}, "answer": "[]"}, "list the golds"),
    ("medical_qa", {"meta": {"question_type": "ranked"}, "answer": [{"item": "a", "gain": -1}]}, "a number, 0 or more"),
    ("medical_qa", {"meta": {"question_type": "ranked"}, "answer": [{"item": "a", "gain": 0}]}, "gain above 0"),
    ("chart_to_code", {"answer": "plt.plot(["}, "not a Python program"),
    ("chart_to_code", {"answer": " "}, "not blank"),
    ("counting", {"answer": -1}, "not a count"),
    ("counting", {"answer": "2.5"}, "not a count"),
    ("counting", {"answer": "many"}, "not a finite number"),
    ("counting", {"answer": float("inf")}, "not a finite number"),
    ("counting", {"media": ""}, "no `images` .columns"),
    ("counting", {"images": [], "videos": []}, "neither `images` nor `videos`"),
    ("math", {"answer": ["1", "2"]}, "write a text"),
    ("math", {"answer": True}, "write a text"),
    ("spatial_transformation", {"answer": [["move", "1"]]}, "step 0 of `answer`"),
    ("spatial_transformation", {"answer": [["", "1", "2"]]}, "names no function"),
    ("spatial_transformation", {"answer": {"move": 1}}, "write|list"),
    ("choice", {"meta": {"options": ["one"]}}, "2 to 26 options"),
    ("choice", {"meta": {"options": ["one", " "]}}, "option 1 of meta.options"),
    ("choice", {"meta": {"num_options": 1}}, "meta.num_options is 1"),
    ("choice", {"answer": "AB"}, "one letter from A to D"),
    ("open_qa", {"answer": []}, "write a text"),
    ("open_qa", {"meta": {"think": "<think>x</think>"}}, "meta.think holds a <think>"),
    ("open_qa", {"prompt": "what is in the <video>"}, "holds the text <video>; leave it out .videos come first"),
    ("open_qa", {"prompt": [{"role": "user", "content": [{"type": "video"}]}]}, "holds no text"),
    ("open_qa", {"prompt": [{"role": "user", "content": "Why?"}]}, "0 image parts, but `images` has 2"),
    ("open_qa", {"prompt": [{"role": "user", "content": [{"type": "sound"}]}]}, "text, image or video part"),
    ("open_qa", {"images": [3]}, "image 3 is neither a path"),
    ("open_qa", {"images": ["data:image/png,xx"]}, "not of the form data:image"),
    ("open_qa", {"images": ["data:image/png;base64,x!"]}, "not valid base64"),
    ("open_qa", {"id": None}, "no `id`"),
    ("tracking", {"videos": "a.mp4"}, "write a list, also for one video"),
    ("tracking", {"videos": [3]}, "video 3 is neither"),
    ("tracking", {"videos": [{"pth": "a.mp4"}]}, "unknown key 'pth'; did you mean 'path'"),
    ("tracking", {"videos": [{"fps": 2}]}, "exactly one of path, bytes and frames"),
    ("tracking", {"videos": [{"frames": []}]}, "list the paths of its images"),
    ("tracking", {"videos": [{"path": ""}]}, "write a path"),
    ("tracking", {"videos": [{"bytes": "x"}]}, "give the encoded file"),
    ("tracking", {"videos": ["https://x.org/a.mp4"]}, "download it"),
    ("tracking", {"videos": [{"path": "a.mp4", "start": 3, "end": 2}]}, "before it starts"),
    ("tracking", {"videos": [{"path": "a.mp4", "start": "3"}]}, "`start` of a video is '3'"),
    ("tracking", {"videos": [{"path": "a.mp4", "fps": 0}]}, "above 0"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "changes", "says"), [pytest.param(*item, id=f"{item[0]}-{i}") for i, item in enumerate(BAD)]
)
def test_a_bad_row_is_named_with_what_to_do(task: str, changes: dict[str, Any], says: str, folder: Path) -> None:
    with pytest.raises(SampleError, match=f"{WHERE}: .*{says}"):
        _read(task, folder, **changes)


@pytest.mark.parametrize("task", [case.task for case in CASES if case.media == "image"])
def test_an_absent_file_is_a_media_error(task: str, folder: Path) -> None:
    with pytest.raises(MediaError, match=f"{WHERE}: .*none.png: no such file"):
        _read(task, folder, images=["none.png"])


def test_clips_of_frames_and_their_times(folder: Path) -> None:
    video = media_of(folder, "video")["videos"][0]
    sample = _read(
        "temporal_grounding", folder, videos=[{**video, "start": 1, "end": 3.5, "path": None}], answer=[1, 2]
    )
    assert (sample.media[0].start, sample.media[0].end, sample.meta["duration"]) == (1.0, 3.5, 2.5)
    with pytest.raises(SampleError, match=r"starts at or after the end of the video, which lasts 2\.5 s"):
        _read("temporal_grounding", folder, videos=[{**video, "start": 1, "end": 3.5}], answer=[3, 3.4])
    with pytest.raises(SampleError, match=r"clip 1 s to 9 s lies outside .*, which lasts 4\.00 s"):
        _read("temporal_grounding", folder, videos=[{**video, "start": 1, "end": 9}])
    with pytest.raises(MediaError, match=r"rows.jsonl:7: .*none.png"):
        _read("temporal_grounding", folder, videos=[{"frames": ["none.png"], "fps": 2}])


def test_stated_durations_stand(folder: Path) -> None:
    assert _read("temporal_grounding", folder, meta={"duration": 3.8}).meta["duration"] == 3.8
    with pytest.raises(SampleError, match="which lasts 2 s"):
        _read("temporal_grounding", folder, meta={"duration": 2}, answer=[2, 3])


def test_images_come_as_bytes_data_uris_and_objects(folder: Path) -> None:
    image = Image.new("RGB", (40, 30), "red")
    file = io.BytesIO()
    image.save(file, format="PNG")
    uri = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    turned = Image.new("RGB", (40, 30))
    turned.getexif()[0x0112] = 6
    sample = _read("choice", folder, images=[{"bytes": file.getvalue()}, uri, image, image.convert("CMYK"), turned])
    assert [image_size(ref) for ref in sample.media] == [(40, 30)] * 4 + [(30, 40)]


def test_images_and_videos_keep_their_places(folder: Path) -> None:
    content = [{"type": "video", "text": None}, {"type": "text", "text": " and "}, {"type": "image"}, {"type": "image"}]
    both = media_of(folder, "images") | media_of(folder, "video")
    sample = _read("choice", folder, prompt=[{"role": "user", "content": content}], **both)
    assert [ref.kind for ref in sample.media] == ["image", "image", "video"]
    assert sample.parts == (MediaPart(index=2), TextPart(text=" and "), MediaPart(index=0), MediaPart(index=1))
    assert [p.index for p in _read("choice", folder, **both).parts if isinstance(p, MediaPart)] == [0, 1, 2]
    parts = build_task("choice").user_parts(
        sample, space="norm_1000", output_mode="direct", template="plan {{ question }}", input_size=None
    )
    assert parts[:3] == (MediaPart(index=2), TextPart(text="plan  and "), MediaPart(index=0))


def test_grounding_takes_no_video(folder: Path) -> None:
    with pytest.raises(SampleError, match="has `videos`, which this task does not take; use a video task"):
        _read("grounding", folder, **media_of(folder, "video"))


def test_targets_in_other_spaces_are_checked_in_them(folder: Path) -> None:
    assert _read("detection", folder, answer=UNIT, meta={}, boxes={"space": "norm_1"}).target_space == "norm_1"
    assert _read("detection", folder, answer=FAR, meta={}, boxes={"space": "norm_1000"}).target[0]["bbox"][2] == 900.0
    assert _read("detection", folder, answer=FAR, meta={}, boxes={"space": "abs_input"}).target_space == "abs_input"
    assert (
        _read("tracking", folder, answer=[[0, 0, 999, 999]], boxes={"space": "norm_999"}, meta={}).target[0][3] == 999
    )


def test_annotated_size_is_compared(folder: Path) -> None:
    with pytest.raises(SampleError, match=r"for a 480x640 video, but .* is 640x480 \(upright\); give the video"):
        _read("tracking", folder, width=480, height=640)
    assert _read("tracking", folder, width=IMAGE_SIZE[0], height=IMAGE_SIZE[1]).meta["image_size"] == [640, 480]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data in {SHARED}; set VLRFT_SHARED_DATA")
def test_a_real_clip(folder: Path) -> None:
    pytest.importorskip("av")
    path = str(SHARED / "video" / "clip.mp4")
    sample = _read("temporal_grounding", folder, videos=[path], answer=[0.5, 1.0])
    assert sample.meta["duration"] > 1.0
    whole = sample.meta["duration"]
    cut = _read("temporal_grounding", folder, videos=[{"path": path, "start": 0.5}], answer=[0.1, 0.4])
    assert cut.meta["duration"] == pytest.approx(whole - 0.5)
    with pytest.raises(SampleError, match="starts at or after the end"):
        _read("temporal_grounding", folder, videos=[path], answer=[whole + 1, whole + 2])
