"""Generated tasks: repeatable, held out for sure, and with answers that the pixels bear out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlrft.data.problems import DataError
from vlrft.data.scene import COLORS, GROUND
from vlrft.data.synthetic import GENERATORS, build_generator
from vlrft.data.synthetic.base import Role, is_held_out, parse_options, write_scenes

NEEDS = {"charts": "matplotlib", "events": "av"}


def made(name: str, folder: Path, role: Role = "train", **options: Any) -> tuple[Path, list[dict[str, Any]]]:
    if name in NEEDS and not (name == "events" and options.get("container") == "frames"):
        pytest.importorskip(NEEDS[name])
    task = build_generator(name)
    where = write_scenes(task, parse_options(task.options, {"n": 8, **options}, role), folder)
    return where, [json.loads(line) for line in (where / "rows.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", GENERATORS)
def test_same_options_give_the_same_files(name: str, tmp_path: Path) -> None:
    first, rows = made(name, tmp_path / "a")
    second, again = made(name, tmp_path / "b")
    assert rows == again
    assert first.name == second.name
    files = sorted(p.name for p in (first / "media").iterdir())
    assert files
    for file in files:
        assert (first / "media" / file).read_bytes() == (second / "media" / file).read_bytes()


@pytest.mark.parametrize("name", GENERATORS)
def test_held_out_scenes_are_never_trained_on(name: str, tmp_path: Path) -> None:
    task = build_generator(name)
    sides: dict[Role, set[str]] = {}
    roles: tuple[Role, ...] = ("train", "eval")
    for role in roles:
        options = parse_options(task.options, {"n": 1}, role)
        # Both sides with one seed: what is planned may be equal, what is taken may not.
        plans = {task.plan(np.random.default_rng(k), options).content for k in range(200)}
        sides[role] = {content for content in plans if is_held_out(content) == (role == "eval")}
        assert sides[role]
    assert not sides["train"] & sides["eval"]


def test_more_scenes_do_not_change_the_first(tmp_path: Path) -> None:
    assert made("counting", tmp_path, n=4)[1] == made("counting", tmp_path, n=9)[1][:4]


def test_counts_are_those_of_the_picture(tmp_path: Path) -> None:
    folder, rows = made("counting", tmp_path, n=20, edge=14, grid=14, kinds=["square"], distractors=3)
    for row in rows:
        pixels = np.asarray(Image.open(folder / row["images"][0]))
        color = row["meta"]["label"].split()[0]
        assert int((pixels == COLORS[color]).all(axis=-1).sum()) == row["answer"] * 14 * 14


def test_boxes_hold_their_shapes_and_others_are_left_out(tmp_path: Path) -> None:
    folder, rows = made("detection", tmp_path, n=20, labels=["square"], others=1, negatives=0.3)
    assert any(row["answer"] == [] for row in rows)
    for row in rows:
        pixels = np.asarray(Image.open(folder / row["images"][0]))
        drawn = (pixels != GROUND).any(axis=-1)
        for item in row["answer"]:
            x1, y1, x2, y2 = item["bbox"]
            assert drawn[y1:y2, x1:x2].all()
            assert item["label"] == "square"
            drawn[y1:y2, x1:x2] = False
        assert drawn.any()  # the shape that no label names


def test_events_are_where_the_answer_says(tmp_path: Path) -> None:
    folder, rows = made("events", tmp_path, n=10, container="frames", moving=True)
    for row in rows:
        (video,) = row["videos"]
        seen = [bool((np.asarray(Image.open(folder / f)) != GROUND).any()) for f in video["frames"]]
        start, end = row["answer"]
        assert seen == [start <= i / video["fps"] < end for i in range(len(seen))]
        assert len(seen) / video["fps"] == row["meta"]["duration"]


def test_a_written_video_holds_the_drawn_frames(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    folder, rows = made("events", tmp_path, n=2)
    _, plain = made("events", tmp_path, n=2, container="frames")
    for row, other in zip(rows, plain, strict=True):
        assert row["answer"] == other["answer"]
        with av.open(str(folder / row["videos"][0])) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert len(frames) == row["meta"]["duration"] * 4
        drawn = np.asarray(
            Image.open(made("events", tmp_path, n=2, container="frames")[0] / other["videos"][0]["frames"][0])
        )
        assert np.abs(frames[0].astype(int) - drawn.astype(int)).max() <= 4


def test_steps_lead_from_the_first_view_to_the_second(tmp_path: Path) -> None:
    folder, rows = made("transformation", tmp_path, n=20, objects=2, functions=["change_position"])
    for row in rows:
        before, after = (np.asarray(Image.open(folder / f)) for f in row["images"])
        half = before.shape[1] // 2
        moved = {number: value for _, number, value in row["answer"]}
        for number in (0, 1):
            view = after[:, number * half : (number + 1) * half]
            rows_with_paint = np.flatnonzero((view != GROUND).any(axis=(1, 2)))
            if number not in moved:
                assert np.array_equal(view, before[:, number * half : (number + 1) * half])
            elif moved[number] == "up":
                assert rows_with_paint[0] == 0
            else:
                assert rows_with_paint[-1] == view.shape[0] - 1


def test_the_odd_image_differs_from_the_rest(tmp_path: Path) -> None:
    folder, rows = made("odd_one_out", tmp_path, n=20, images=4, kinds=["square"])
    for row in rows:
        paints = []
        for file in row["images"]:
            pixels = np.asarray(Image.open(folder / file)).reshape(-1, 3)
            paints.append(tuple(pixels[(pixels != GROUND).any(axis=1)][0].tolist()))
        odd = ord(row["answer"]) - ord("A")
        assert paints.count(paints[odd]) == 1
        assert len(set(paints)) == 2


def test_elements_do_not_overlap_and_are_drawn(tmp_path: Path) -> None:
    folder, rows = made("screens", tmp_path, n=20)
    for row in rows:
        x1, y1, x2, y2 = row["answer"]
        pixels = np.asarray(Image.open(folder / row["images"][0]).convert("L")).astype(int)
        inside = pixels[y1:y2, x1:x2]
        assert inside.max() - inside.min() > 60
        assert row["meta"]["element"] in ("button", "field", "box")
    _, actions = made("screens", tmp_path, n=30, task="gui_action")
    assert {row["answer"]["action"] for row in actions} == {"click", "type"}
    assert all(("text" in row["answer"]) == (row["answer"]["action"] == "type") for row in actions)


def test_a_chart_is_drawn_by_its_program(tmp_path: Path) -> None:
    folder, rows = made("charts", tmp_path, n=10, size=[200, 160])
    for row in rows:
        with Image.open(folder / row["images"][0]) as picture:
            assert picture.size == (200, 160)
        compile(row["answer"], row["id"], "exec")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("counting", {"max_cuont": 3}, "did you mean 'max_count'"),
        ("counting", {"colors": ["pink"]}, "data.train.options.colors"),
        ("counting", {"min_count": 5, "max_count": 2}, "exceeds max_count"),
        ("events", {"min_length": 99}, "min_length"),
        ("screens", {"elements": 1}, "data.train.options.elements"),
    ],
)
def test_bad_options_are_named(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        parse_options(build_generator(name).options, options, "train")


def test_too_little_variety_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few different scenes"):
        made("counting", tmp_path, "eval", n=50, colors=["red"], kinds=["square"], distractors=0, max_count=1, grid=70)


def test_shapes_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not fit"):
        made("counting", tmp_path, min_count=30, max_count=30, edge=40)


def test_the_question_says_in_what_the_odd_image_differs(tmp_path: Path) -> None:
    _, colors = made("odd_one_out", tmp_path, n=10, kinds=["square"])
    assert {row["prompt"] for row in colors} == {"Which image shows a shape of another color than the others?"}
    _, rows = made("odd_one_out", tmp_path, n=80, seed=3)
    assert {row["prompt"].removeprefix("Which image shows ").removesuffix(" than the others?") for row in rows} == {
        "another shape", "a shape of another color", "a shape of another kind and color",
    }  # fmt: skip


@pytest.mark.slow
def test_twenty_elements_fit_a_large_screen(tmp_path: Path) -> None:
    """Of the words of one kind there are six: when they are used up the others go on."""
    for seed in range(8):
        _, rows = made("screens", tmp_path, n=6, elements=20, size=[2000, 1500], seed=seed)
        assert len(rows) == 6
