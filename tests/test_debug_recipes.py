"""The debug recipes: tiny models trained end to end on images, several images in one prompt, videos, and both."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import vlrft
from vlrft.compose import compose
from vlrft.models.tiny import save_tiny
from vlrft.recipe import recipe_names
from vlrft.runfolder import read_metrics
from vlrft.validate import validate

EXPECTED: dict[str, dict[str, tuple[float, float | None]]] = {
    "debug/engines": {"tg.iou": (0.0, None)},
    "debug/grounding": {"box.iou": (0.35, None)},
    "debug/internvl": {"box.iou": (0.0, None)},
    "debug/mixed": {"box.iou": (0.0, 0.03), "tg.iou": (0.64, 0.01)},
    "debug/multi_image": {"mcq.letter": (0.4, 0.05)},
    "debug/qwen3_vl": {"box.iou": (0.0, None)},
    "debug/temporal": {"tg.iou": (0.64, 0.04)},
}
"""What a recipe measures on held-out samples -> (least value after SFT, least rise by GRPO; None: none is shown).

The former lies above what one answer for all samples earns, where the header says that SFT gets there; the latter is
about half of the least rise that was measured."""

LORA = "debug/lora"
"""Goes on from the model of debug/temporal's first stage."""
LORA_BASE = ["stages.grpo.train.steps=0"]
LORA_GAIN = 0.02
"""Least rise of the IoU by its adapters, about half of the measured one."""

SHORT = [
    "train.prompts_per_step=4",
    "engine.num_generations=2",
    "stages.sft.train.steps=2",
    "stages.grpo.train.steps=2",
]
QUIET = ["log.report=false", "log.tensorboard=false"]


def short(name: str, folder: Path) -> list[str]:
    """Overrides for a run of seconds, in `folder`."""
    train = compose(name).config.data.train
    sources = [f"{i}.options" for i in range(len(train.mixture))] or ["options"]
    sizes = [f"data.{role}.{at}.n={n}" for role, n in (("train", 8), ("eval", 4)) for at in sources]
    return [*sizes, *SHORT, *QUIET, f"train.output_dir={folder / 'run'}", f"data.root={folder / 'data'}"]


def test_every_debug_recipe_is_run() -> None:
    assert sorted([*EXPECTED, LORA]) == [name for name in recipe_names() if name.startswith("debug/")]


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_measured_cannot_be_had_by_the_rewards_of_form(name: str) -> None:
    config = compose(name).config
    weights = {spec.func.split(".")[0]: spec.weight for spec in config.rewards.funcs}
    assert set(EXPECTED[name]) <= {spec.func for spec in config.eval.metrics}
    assert {metric.split(".")[0] for metric in EXPECTED[name]} == set(weights) - {"length"}
    assert weights.get("length", 0.0) <= 0.1


@pytest.mark.parametrize("name", EXPECTED)
def test_validates(name: str, tmp_path: Path) -> None:
    report = validate(compose(name, short(name, tmp_path)))
    assert report.ok, report.as_text()


@pytest.mark.parametrize(
    "name",
    [name if name.endswith("mixed") else pytest.param(name, marks=pytest.mark.slow) for name in EXPECTED],
)
def test_a_few_steps_stay_finite(name: str, tmp_path: Path) -> None:
    run = vlrft.train(name, *short(name, tmp_path))
    rows = read_metrics(run.path)
    trained = [row for row in rows if row["kind"] == "train"]
    assert [row["stage"] for row in trained] == ["sft", "sft", "grpo", "grpo"]
    # A GRPO step has no loss where no group's rewards differ, as is likely before the model can answer.
    assert all(math.isfinite(row["loss" if row["stage"] == "sft" else "reward/mean"]) for row in trained)
    assert all(math.isfinite(row.get("loss", 0.0)) for row in trained)
    held_out = 4 * max(1, len(compose(name).config.data.train.mixture))
    assert [row["eval/n"] for row in rows if row["kind"] == "eval"] == [held_out] * 3


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_a_whole_run_gets_where_its_header_says(name: str, tmp_path: Path) -> None:
    run = vlrft.train(name, *QUIET, f"train.output_dir={tmp_path / 'run'}", f"data.root={tmp_path / 'data'}",
                      "parallel.num_threads=1")  # fmt: skip
    curve = [row for row in read_metrics(run.path) if row["kind"] == "eval"]
    after = {row["stage"]: row for row in curve}
    for metric, (least, gain) in EXPECTED[name].items():
        start, sft, grpo = (row[f"eval/{metric}"] for row in (curve[0], after["sft"], after["grpo"]))
        course = f"{metric}: {start:.3f} -> {sft:.3f} -> {grpo:.3f}"
        assert max(start, least) < sft, course
        assert gain is None or grpo > sft + gain, course
    losses = [row["loss"] for row in read_metrics(run.path) if row["kind"] == "train" and row["stage"] == "sft"]
    assert losses[-1] < losses[0] / 4
    assert after["grpo"]["eval/truncated_share"] < 0.1


def test_adapters_on_a_trained_model_take_a_few_steps(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed: pip install 'vlrft[peft]'")
    tiny = compose("debug/temporal").config.model.tiny
    assert tiny is not None
    base = save_tiny(tiny, tmp_path / "base")
    sizes = ["data.train.options.n=8", "data.eval.options.n=4"]
    run = vlrft.train(LORA, *sizes, *QUIET, "train.prompts_per_step=4", "engine.num_generations=2", "train.steps=2",
                      f"model.model_name_or_path={base}", f"train.output_dir={tmp_path / 'run'}",
                      f"data.root={tmp_path / 'data'}")  # fmt: skip
    trained = [row for row in read_metrics(run.path) if row["kind"] == "train"]
    assert [row["stage"] for row in trained] == ["grpo", "grpo"]
    assert all(math.isfinite(row.get("loss", 0.0)) for row in trained)
    assert (run.path / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_adapters_on_a_trained_model_get_where_the_header_says(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed: pip install 'vlrft[peft]'")
    shared = [*QUIET, "parallel.num_threads=1", f"data.root={tmp_path / 'data'}"]
    base = vlrft.train("debug/temporal", *LORA_BASE, *shared, f"train.output_dir={tmp_path / 'base'}")
    run = vlrft.train(LORA, *shared, f"train.output_dir={tmp_path / 'run'}",
                      f"model.model_name_or_path={base.path / 'model'}")  # fmt: skip
    curve = [row["eval/tg.iou"] for row in read_metrics(run.path) if row["kind"] == "eval"]
    assert curve[-1] > curve[0] + LORA_GAIN, curve
