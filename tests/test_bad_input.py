"""Bad input is refused with a clear message before anything is computed or written, or skipped, counted and listed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import vlrft
from vlrft.cli import is_user_error
from vlrft.renderer import Renderer
from vlrft.runfolder import read_metrics

Row = dict[str, Any]


class Refused:
    """`refused(recipe, "pattern")`: training raises a user's error that matches, and leaves no output folder."""

    def __call__(self, recipe: dict[str, Any], pattern: str) -> None:
        with pytest.raises(Exception, match=pattern) as caught:
            vlrft.train(recipe)
        assert is_user_error(caught.value), f"{type(caught.value)} would be shown with a traceback"
        assert not Path(recipe["train"]["output_dir"]).exists()


refused = Refused()


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Four good rows over images in tmp_path/images; a test spoils one."""
    (tmp_path / "images").mkdir()
    made = []
    for i in range(4):
        Image.new("RGB", (56, 56), (40 * i, 90, 200)).save(tmp_path / "images" / f"{i}.png")
        box = {"box": [0, 0, 14 * (i + 1), 28], "space": "abs_original"}
        made.append({"id": f"r{i}", "prompt": "the square", "images": [f"{i}.png"], "boxes": box})
    return made


@pytest.fixture
def native(recipe: Any, rows: list[Row], tmp_path: Path) -> Any:
    """`native(**blocks)`: the tiny recipe on `rows` as they are now, for training and evaluation."""

    def make(**blocks: Any) -> dict[str, Any]:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"format": "native", "path": "rows.jsonl", "images": "images"}
        data = {"root": str(tmp_path), "train": source, "eval": None, **blocks.pop("data", {})}
        return dict(recipe(data=data, **blocks))

    return make


def spoil_image(tmp_path: Path, how: str) -> None:
    path = tmp_path / "images" / "2.png"
    if how == "missing":
        path.unlink()
    elif how == "unreadable":
        path.write_bytes(b"<html>404</html>")
    else:
        Image.effect_noise((56, 56), 90).convert("RGB").save(path)
        path.write_bytes(path.read_bytes()[:700])


def spoil_row(row: Row, how: str) -> None:
    if how == "box outside":
        row["boxes"]["box"] = [10, 10, 300, 40]
    elif how == "wrong space":
        row["boxes"] = {"box": [100, 100, 900, 900], "space": "norm_1"}
    elif how == "unknown space":
        row["boxes"]["space"] = "norm_100"
    elif how == "no target":
        del row["boxes"]
    else:
        row["prompt"] = "very long " * 60


BAD_ROWS = {
    "missing": r"2\.png.*no such file",
    "unreadable": r"2\.png.*is not an image",
    "truncated": r"2\.png.*truncated or damaged",
    "box outside": r"rows\.jsonl:3.*300",
    "wrong space": r"rows\.jsonl:3.*norm_1",
    "unknown space": r"rows\.jsonl:3.*norm_100",
    "no target": r"rows\.jsonl:3: no `boxes`",
    "long prompt": r"'r2'.*prompt has \d+ tokens.*max_prompt_length is 200",
}


def spoil(how: str, rows: list[Row], tmp_path: Path) -> None:
    if how in ("missing", "unreadable", "truncated"):
        spoil_image(tmp_path, how)
    else:
        spoil_row(rows[2], how)


@pytest.mark.parametrize("how", BAD_ROWS)
def test_a_bad_row_is_an_error(how: str, native: Any, rows: list[Row], tmp_path: Path) -> None:
    spoil(how, rows, tmp_path)
    refused(native(data={"max_prompt_length": 200}), BAD_ROWS[how])


@pytest.mark.parametrize(
    "how", [how if how in ("missing", "truncated") else pytest.param(how, marks=pytest.mark.slow) for how in BAD_ROWS]
)
def test_a_bad_row_is_skipped_and_listed_when_asked(how: str, native: Any, rows: list[Row], tmp_path: Path) -> None:
    spoil(how, rows, tmp_path)
    run = vlrft.train(native(data={"max_prompt_length": 200, "on_bad_sample": "skip"}, train={"steps": 1}))
    (line,) = (run.path / "skipped.jsonl").read_text().splitlines()
    assert {"where", "reason"} == json.loads(line).keys()
    assert "r2" in line or "2.png" in line or "rows.jsonl:3" in line
    stored = (run.path / "rollouts" / "grpo-000001.jsonl").read_text()
    assert '"r1"' in stored
    assert '"r2"' not in stored


def test_all_rows_skipped_is_an_error(native: Any, rows: list[Row]) -> None:
    for row in rows:
        row["prompt"] = "very long " * 60
    refused(native(data={"max_prompt_length": 200, "on_bad_sample": "skip"}), r"no sample of data\.train.*all 4")


def test_every_image_damaged_is_an_error(native: Any, rows: list[Row], tmp_path: Path) -> None:
    for row in rows:
        row["images"] = ["2.png"]
    spoil_image(tmp_path, "truncated")
    refused(native(data={"on_bad_sample": "skip"}), r"no sample of data\.train.*all 4.*truncated")


def test_images_beyond_the_check_are_found_in_their_turn(native: Any, tmp_path: Path) -> None:
    spoil_image(tmp_path, "truncated")
    run = vlrft.train(native(data={"check_images": 0, "on_bad_sample": "skip"}, train={"steps": 3}))
    rows = [row for row in read_metrics(run.path) if row["kind"] == "train"]
    assert [row["samples/left_out"] for row in rows] == [1, 1, 1]
    (line,) = (run.path / "skipped.jsonl").read_text().splitlines()
    assert "2.png" in line


def test_held_out_rows_are_checked_too(native: Any, rows: list[Row], tmp_path: Path) -> None:
    good = [json.dumps(row) for row in rows]
    (tmp_path / "held.jsonl").write_text("\n".join(good[:3]).replace('"the square"', json.dumps("very long " * 60)))
    held = {"format": "native", "path": "held.jsonl", "images": "images"}
    refused(native(data={"eval": held, "max_prompt_length": 200}), r"'r0'.*max_prompt_length")


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"train": {"stepps": 3}}, r"unknown key train\.stepps; did you mean train\.steps"),
    "unknown reward": ({"rewards": {"funcs": [{"func": "box.iuo"}]}}, r"'box\.iuo'; did you mean 'box\.iou'"),
    "reward of a missing module": ({"rewards": {"funcs": [{"func": "no_module:f"}]}}, r"rewards\.funcs.*no_module"),
    "reward without its option": ({"rewards": {"funcs": [{"func": "box.acc"}]}}, r"rewards\.funcs.*box\.acc@0\.5"),
    "reward twice": ({"rewards": {"funcs": [{"func": "box.iou"}, {"func": "box.iou"}]}}, r"funcs lists box\.iou twice"),
    "unknown metric": ({"eval": {"metrics": ["box.io"]}}, r"unknown reward 'box\.io'; did you mean 'box\.iou'"),
    "flex on the CPU": ({"model": {"attention": "flex"}}, r"model\.attention=flex needs a CUDA device"),
    "varlen on the CPU": ({"model": {"attention": "flash_varlen"}}, r"attention=flash_varlen needs a CUDA device"),
    "G of 1": ({"engine": {"num_generations": 1}}, r"num_generations is 1: a group needs at least 2"),
    "greedy rollouts": ({"engine": {"temperature": 0.0}}, r"engine\.temperature is 0"),
    "top-p": ({"engine": {"top_p": 0.9}}, r"allow_truncated_sampling"),
    "unknown engine": ({"engine": {"name": "hff"}}, r"unknown engine 'hff'; did you mean 'hf'"),
    "engine option": ({"engine": {"kwargs": {"speed": 11}}}, r"engine\.kwargs\.speed: engine\.name=hf has no such"),
    "unknown sampler": ({"sampler": {"name": "shufle"}}, r"unknown sampler 'shufle'; did you mean 'shuffle'"),
    "sampler option": ({"sampler": {"kwargs": {"power": 2}}}, r"sampler: .*power"),
    "unknown task": ({"data": {"task": "groundin"}}, r"unknown task 'groundin'; did you mean 'grounding'"),
    "unknown loss": ({"objective": {"policy_loss": "clipp"}}, r"unknown policy loss 'clipp'; did you mean 'clip'"),
    "unknown advantage": ({"objective": {"advantage": "groop"}}, r"unknown advantage 'groop'; did you mean 'group'"),
    "unknown family": ({"model": {"tiny": {"family": "qwen25"}}}, r"unknown tiny model family 'qwen25'"),
    "impossible model": ({"model": {"tiny": {"hidden_size": 33}}}, r"model\.tiny: .*hidden_size \(33\)"),
    "no such folder": ({"model": {"tiny": None, "model_name_or_path": "./none/at/all"}}, r"no folder \./none/at/all"),
    "two models": ({"model": {"model_name_or_path": "org/model"}}, r"exactly one of model\.model_name_or_path"),
    "all frozen": (
        {"model": {"freeze_vision_tower": True, "freeze_projector": True, "freeze_language_model": True}},
        r"every part of the model is frozen.*model\.freeze_vision_tower",
    ),
    "stage with a model of its own": (
        {"stages": [{"kind": "grpo", "model": {"gradient_checkpointing": True}}]},
        r"stage 'grpo' sets model\.gradient_checkpointing, which is one for the whole run",
    ),
    "stage with a folder of its own": (
        {"stages": [{"kind": "sft"}, {"kind": "grpo", "train": {"output_dir": "x"}}]},
        r"stage 'grpo' sets train\.output_dir",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_a_bad_config_is_an_error(name: str, recipe: Any) -> None:
    blocks, pattern = CONFIGS[name]
    refused(recipe(**blocks), pattern)


def test_a_folder_without_a_family_is_an_error(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    refused(recipe(model={"tiny": None, "model_name_or_path": str(tmp_path / "llama")}), r"llama cannot be loaded")


def test_an_output_folder_with_something_in_it(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(Exception, match=r"run is not empty; .*train\.output_dir") as caught:
        vlrft.train(recipe())
    assert is_user_error(caught.value)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("how", [pytest.param("config", marks=pytest.mark.slow), "row"])
def test_the_command_line_says_it_in_one_message(how: str, native: Any, rows: list[Row], tmp_path: Path) -> None:
    import yaml

    if how == "row":
        del rows[1]["boxes"]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(native()))
    command = [sys.executable, "-c", "from vlrft.cli import main; main()", "train", str(path)]
    extra = ["rewards.funcs=[{func: box.iuo}]"] if how == "config" else []
    done = subprocess.run([*command, *extra], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("error: ")
    assert ("did you mean 'box.iou'" if how == "config" else "rows.jsonl:2: no `boxes`") in message
    assert not (tmp_path / "run").exists()


def test_a_limit_below_the_reference_answers_is_told(recipe: Any, caplog: pytest.LogCaptureFixture) -> None:
    vlrft.train(recipe(engine={"max_completion_length": 3}, train={"steps": 0}))
    assert "the reference answer of sample" in caplog.text
    assert "engine.max_completion_length is 3: raise it" in caplog.text


def test_each_sample_is_checked_once(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    check = Renderer.check
    monkeypatch.setattr(Renderer, "check", lambda self, sample: checked.append(sample.id) or check(self, sample))
    vlrft.train(recipe(train={"steps": 0}))
    assert checked
    assert len(checked) == len(set(checked))


def test_an_output_folder_below_a_file(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("a file")
    refused(
        recipe(train={"output_dir": str(tmp_path / "note" / "run")}), r"note is a file; give this run another place"
    )
