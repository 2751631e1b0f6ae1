"""Two ranks under ZeRO and FSDP2 train what one process trains, be it text, images, videos or nothing at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_of_mine import HERE, run_on
from safetensors.torch import load_file

import vlrft
from vlrft.compose import ConfigError
from vlrft.runfolder import read_metrics
from vlrft.testing import noise_image, tiny_recipe

EVERYTHING_IN_PARTS = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
"""Else DeepSpeed keeps parameters as small as these whole."""
ZERO3 = {"strategy": "zero3", "deepspeed": EVERYTHING_IN_PARTS}
FREEZING = [
    {"kind": "sft", "train": {"steps": 2}, "model": {"freeze_vision_tower": True}},
    {"kind": "grpo", "model": {"freeze_language_model": True}},
]


def kinds_of_rows(place: Path) -> dict[str, Any]:
    """Prompts of text alone, of images and of videos, in an order in which two ranks never have the same."""
    listed = []
    for i, kind in enumerate(["text", "image", "video", "text", "flat", "video", "video", "text", "image"]):
        row: dict[str, Any] = {"id": f"{kind}-{i}", "prompt": "Which letter?", "answer": "A", "task": "choice"}
        row["meta"] = {"options": ["x", "y"]}
        names = [f"{i}-{t}.png" for t in range({"text": 0, "video": 4}.get(kind, 1))]
        for t, name in enumerate(names):
            noise_image((56, 56), 10 * i + t).save(place / name)
        if kind == "video":
            row["videos"] = [{"frames": names, "fps": 2}]
        elif names:
            row["images"] = names
        listed.append(row)
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed), encoding="utf-8")
    return {"format": "native", "path": str(place / "rows.jsonl"), "images": str(place)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shard")
    kinds_of_rows(folder)
    return folder


def recipe(place: Path, name: str, /, **blocks: Any) -> dict[str, Any]:
    """3 steps of 2 passes over 3 prompts each, and a KL term; several micro-batches per step.

    With an epsilon that large Adam moves by the gradient itself: weights that agree to 1e-5 had gradients that did.
    """
    source = {"format": "native", "path": str(place / "rows.jsonl"), "images": str(place)}
    train = {"prompts_per_step": 3, "steps": 3, "micro_batch_tokens": 90, "max_grad_norm": 0.05}
    train |= {"learning_rate": 1.0, "adam_epsilon": 1.0} | blocks.pop("train", {})
    engine = {"name": f"{HERE}:scripted"} | blocks.pop("engine", {})
    parallel = {"cpu": True, "num_threads": 1} | blocks.pop("parallel", {})
    objective = {"num_iterations": 2, "beta": 0.05} | blocks.pop("objective", {})
    data = {"root": str(place), "task": "choice", "train": source, "eval": None, "max_prompt_length": 4096}
    return tiny_recipe(
        place, place / name, data=data, sampler={"name": "sequential"}, engine=engine, train=train,
        objective=objective, parallel=parallel, **blocks,
    )  # fmt: skip


def rows(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(run)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def assert_alike(run: Path, expected: Path, tolerance: float = 1e-5) -> None:
    for ours, theirs in zip(rows(run), rows(expected), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert ours[key] == (pytest.approx(value, abs=tolerance) if isinstance(value, float) else value), key
    ours, theirs = weights(run), weights(expected)
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, atol=tolerance, rtol=0.0)


def runs(place: Path, /, **changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"recipe": recipe(place, name, **blocks)} for name, blocks in changes.items()]


@pytest.fixture(scope="module")
def one(place: Path) -> Path:
    """The run of one process."""
    return vlrft.train(recipe(place, "one")).path


def test_two_ranks_train_what_one_process_trains(one: Path, place: Path) -> None:
    changes = {
        "zero2": {"parallel": {"strategy": "zero2"}},
        "zero3": {"parallel": ZERO3, "engine": {"name": f"{HERE}:unmoved"}},
        "fsdp2": {"parallel": {"strategy": "fsdp2"}, "engine": {"name": f"{HERE}:unmoved"}},
    }
    run_on(2, runs(place, **changes), place)
    before = {name for name, weight in weights(one).items() if weight.isfinite().all()}
    assert before == set(weights(one))
    for name in changes:
        assert_alike(place / name, one)


TEXT_ALONE = {"prompts_per_step": 1, "steps": 4, "weight_decay": 0.01}
"""One prompt per step: a text, an image, a video, a text."""


@pytest.mark.slow
def test_steps_of_text_alone_leave_no_gradient_of_the_step_before(place: Path) -> None:
    """zero* and fsdp2 give the tower a gradient of zero then, on however many ranks."""
    changes: dict[str, dict[str, Any]] = {
        "zero2-text": {"parallel": {"strategy": "zero2"}, "train": TEXT_ALONE},
        "zero3-text": {"parallel": ZERO3, "train": TEXT_ALONE},
        "fsdp2-text": {"parallel": {"strategy": "fsdp2"}, "train": TEXT_ALONE},
    }
    alone = {"parallel": {"strategy": "zero2"}, "train": TEXT_ALONE}
    run_on(1, runs(place, **{"zero2-alone": alone}), place)
    run_on(2, runs(place, **changes), place)
    for name in changes:
        assert_alike(place / name, place / "zero2-alone")


@pytest.mark.slow
def test_steps_of_text_alone_leave_the_tower_alone_under_ddp(place: Path) -> None:
    """No rank has a gradient for it: neither momentum nor weight decay moves it, as in one process."""
    run_on(1, runs(place, **{"one-text": {"train": TEXT_ALONE}}), place)
    run_on(2, runs(place, **{"ddp-text": {"train": TEXT_ALONE}}), place)
    assert_alike(place / "ddp-text", place / "one-text")


@pytest.mark.slow
def test_other_ways_to_hold_the_same_numbers(one: Path, place: Path) -> None:
    """ZeRO-1, activation checkpointing, offload to the host."""
    checkpointing = {**recipe(place, "x")["model"], "gradient_checkpointing": True}
    changes: dict[str, dict[str, Any]] = {
        "zero1": {"parallel": {"strategy": "zero1"}},
        "zero2-again": {"parallel": {"strategy": "zero2"}, "model": checkpointing},
        "zero3-again": {"parallel": ZERO3, "model": checkpointing},
        "fsdp2-again": {"parallel": {"strategy": "fsdp2"}, "model": checkpointing},
        "zero1-host": {"parallel": {"strategy": "zero1", "offload": "optimizer"}},
        "zero2-host": {"parallel": {"strategy": "zero2", "offload": "optimizer"}},
        "zero3-host": {"parallel": {**ZERO3, "offload": "optimizer"}},
        "zero3-all": {"parallel": {**ZERO3, "offload": "all"}},
    }
    run_on(2, runs(place, **changes), place)
    for name in changes:
        assert_alike(place / name, one)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "internvl"])
def test_other_families(family: str, place: Path) -> None:
    """Their towers feed deeper layers, or their heads are not tied."""
    model = recipe(place, "x")["model"]
    model = {"tiny": {**model["tiny"], "family": family, "vision_intermediate_size": 64}}
    changes = {
        f"{family}-zero3": {"parallel": ZERO3, "model": model},
        f"{family}-fsdp2": {"parallel": {"strategy": "fsdp2"}, "model": model},
    }
    run_on(1, runs(place, **{f"{family}-one": {"model": model}}), place)
    run_on(2, runs(place, **changes), place)
    for name in changes:
        assert_alike(place / name, place / f"{family}-one")


@pytest.mark.slow
def test_stages_that_freeze_and_hand_the_model_on(place: Path) -> None:
    changes: dict[str, dict[str, Any]] = {
        "zero2-stages": {"parallel": {"strategy": "zero2"}, "stages": FREEZING},
        "zero3-stages": {"parallel": ZERO3, "stages": FREEZING},
        "fsdp2-stages": {"parallel": {"strategy": "fsdp2"}, "stages": FREEZING},
    }
    run_on(1, runs(place, **{"one-stages": {"stages": FREEZING}}), place)
    run_on(2, runs(place, **changes), place)
    for name in changes:
        assert_alike(place / name, place / "one-stages")


@pytest.mark.slow
def test_bfloat16_compute(place: Path) -> None:
    """On float32 weights everywhere; sums differ in the order in which they are rounded."""
    half = {"mixed_precision": "bf16"}
    changes = {
        "zero2-half": {"parallel": {"strategy": "zero2", **half}},
        "zero3-half": {"parallel": {**ZERO3, **half}},
        "fsdp2-half": {"parallel": {"strategy": "fsdp2", **half}},
    }
    run_on(1, runs(place, **{"one-half": {"parallel": half}}), place)
    run_on(2, runs(place, **changes), place)
    for name in changes:
        assert_alike(place / name, place / "one-half", tolerance=2e-3)
        assert all(weight.dtype == torch.float32 for weight in weights(place / name).values())


@pytest.mark.slow
def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_all(place: Path) -> None:
    loss = {"policy_loss": f"{HERE}:sick", "num_iterations": 1}
    strategies = {"ddp": {}, "zero1": {"strategy": "zero1"}, "zero2": {"strategy": "zero2"}, "zero3": ZERO3}
    strategies["fsdp2"] = {"strategy": "fsdp2"}
    changes = {f"{name}-sick": {"parallel": parallel, "objective": loss} for name, parallel in strategies.items()}
    run_on(2, runs(place, **changes), place)
    assert [row["skipped_steps"] for row in rows(place / "ddp-sick")] == [0, 1, 1]
    for name in changes:
        assert_alike(place / name, place / "ddp-sick")


@pytest.mark.slow
def test_engines_get_whole_weights_and_the_canary_sees_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = {"name": f"{HERE}:loading"}
    for name, parallel in {"zero3": ZERO3, "fsdp2": {"strategy": "fsdp2"}}.items():
        monkeypatch.setenv("VLRFT_CHECKS", str(place / f"{name}-checks.json"))
        run_on(2, runs(place, **{f"{name}-loading": {"parallel": parallel, "engine": engine}}), place)
        checks = json.loads((place / f"{name}-checks.json").read_text(encoding="utf-8"))
        assert len(checks) == 4, "one at the start of the stage, one after each step"
        assert max(checks) < 1e-5


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        (
            {"parallel": {"strategy": "zero3"}, "engine": {"name": "hf"}},
            "hf samples .*=vllm or vllm_server",
        ),
        (
            {"parallel": {"strategy": "fsdp2"}, "engine": {"name": "hf"}},
            "hf samples .*=vllm or vllm_server",
        ),
        ({"parallel": {"strategy": "zero2", "offload": "all"}}, "offload=all needs .*zero3 or fsdp2"),
        ({"parallel": {"strategy": "zero3"}, "model": {"dtype": "bfloat16"}}, "needs model.dtype=float32"),
        (
            {"parallel": {"strategy": "zero3"}, "model": {"adapter": {"r": 2}}},
            "adapter does not go with .*zero2 or ddp",
        ),
        (
            {"parallel": {"strategy": "fsdp2"}, "model": {"adapter": {"r": 2}}},
            "adapter does not go with .*zero2 or ddp",
        ),
        ({"parallel": {"strategy": "zero2"}, "train": {"optimizer": "adamw_8bit"}}, "strategy=ddp only.* use adamw"),
        ({"parallel": {"strategy": "fsdp2"}, "train": {"optimizer": "paged_adamw"}}, "strategy=ddp only.* use adamw"),
        ({"parallel": {"offload": "optimizer"}, "train": {"optimizer": "paged_adamw_8bit"}}, "set .*offload=none"),
        ({"parallel": {"deepspeed": {"steps_per_print": 1}}}, "ddp does not read it: set parallel.deepspeed=null"),
        ({"parallel": {"strategy": "fsdp2", "deepspeed": {"fp16": {}}}}, "fsdp2 does not read it"),
        (
            {"parallel": {"strategy": "zero2", "deepspeed": {"zero_optimization": {"stage": 3}}}},
            "deepspeed cannot set zero_optimization.stage, .*set parallel.strategy",
        ),
        (
            {"parallel": {"strategy": "zero2", "deepspeed": {"gradient_accumulation_steps": 2}}},
            "deepspeed cannot set gradient_accumulation_steps, .*micro_batch_tokens",
        ),
    ],
)
def test_what_a_strategy_cannot_do_is_refused(blocks: dict[str, Any], said: str, place: Path) -> None:
    asked = recipe(place, "refused", **blocks)
    with pytest.raises(ConfigError, match=said):
        vlrft.train(asked)
    assert not (place / "refused").exists()
