"""Evaluation: the same numbers in the run and afterwards, greedy, whatever the batch size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vlrft
from vlrft.data.problems import DataError
from vlrft.eval.metrics import summarise
from vlrft.eval.run import evaluate_samples
from vlrft.runfolder import read_metrics
from vlrft.testing import make_group, make_prompt
from vlrft.types import FinishReason, Score

STAGES = [{"kind": "sft", "train": {"steps": 2}}, {"kind": "grpo", "train": {"steps": 3}}]


def eval_rows(run: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(run) if row["kind"] == "eval"]


def values(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key.startswith("eval/")}


@pytest.mark.parametrize("skip", [pytest.param(False, marks=pytest.mark.slow), True])
def test_evaluate_repeats_the_last_row_of_the_run(recipe: Any, skip: bool) -> None:
    blocks: dict[str, Any] = {"stages": STAGES, "eval": {"every": 2, "limit": 4}}
    if skip:
        blocks["data"] = {"on_bad_sample": "skip"}
    run = vlrft.train(recipe(**blocks))
    rows = eval_rows(run.path)
    assert [(r["stage"], r["step"]) for r in rows] == [("sft", 0), ("sft", 2), ("grpo", 2), ("grpo", 3)]
    results = vlrft.evaluate(run)
    assert results.metrics == values(rows[-1])
    assert results.metrics["eval/n"] == 4
    assert results.path is not None
    assert json.loads(results.path.read_text()) == results.metrics
    assert run.summary["grpo/eval/box.iou"] == results.metrics["eval/box.iou"]
    assert vlrft.evaluate(str(run.path), "eval.limit=2").metrics["eval/n"] == 2


def test_a_recipe_is_evaluated_as_it_starts(recipe: Any, tmp_path: Path) -> None:
    results = vlrft.evaluate(recipe())
    assert results.path is None
    assert not (tmp_path / "run").exists()
    assert results.metrics == values(eval_rows(vlrft.train(recipe(train={"steps": 1})).path)[0])


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.slow
def test_batches_do_not_change_results(stage: Any, size: int) -> None:
    run = stage()
    texts = []
    for per_batch in (64, size):
        config = run.config.model_copy(
            update={"eval": run.config.eval.model_copy(update={"prompts_per_batch": per_batch})}
        )
        results = evaluate_samples(run.setup.held_out, config, run.worker.renderer, run.worker.engine)
        texts.append(([g.rollouts[0].completion.token_ids for g in results.groups], results.metrics))
    assert texts[0] == texts[1]


def test_decoding_is_greedy_and_seeds_do_not_matter(stage: Any) -> None:
    run = stage()
    tokens = []
    for seed in (0, 1):
        config = run.config.model_copy(update={"train": run.config.train.model_copy(update={"seed": seed})})
        groups = evaluate_samples(run.setup.held_out, config, run.worker.renderer, run.worker.engine).groups
        assert all(len(group.rollouts) == 1 for group in groups)
        tokens.append([group.rollouts[0].completion.token_ids for group in groups])
    assert tokens[0] == tokens[1]


def test_means_are_over_the_samples_that_a_metric_applies_to(stage: Any) -> None:
    prompt = make_prompt(stage().worker.renderer.family, "p", [(56, 56)])
    groups = [make_group(prompt, [[1, 2, 3]], [0.0]), make_group(prompt, [[1]], [0.0]), make_group(prompt, [], [])]
    scores = [
        Score(value=1.0, parts={"a": 1.0, "b": None}),
        Score(value=0.5, parts={"a": 0.5, "b": 0.2}, flags=("no_answer",)),
    ]
    for i, score in enumerate(scores):
        groups[i] = replace(groups[i], rollouts=(replace(groups[i].rollouts[0], score=score),))
    cut = replace(groups[0].rollouts[0].completion, finish_reason=FinishReason.LENGTH)
    groups[0] = replace(groups[0], rollouts=(replace(groups[0].rollouts[0], completion=cut),))
    assert summarise(groups, ["a", "b", "c"]) == {
        "eval/n": 3, "eval/a": 0.75, "eval/b": 0.2, "eval/mean_length": 2.0, "eval/truncated_share": 0.5,
        "eval/flags/no_answer": 0.5,
    }  # fmt: skip


def test_what_cannot_be_evaluated(recipe: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no held-out rows: set data\.eval"):
        vlrft.evaluate(recipe(data={"eval": None}))
    run = vlrft.train(recipe(train={"steps": 1}))
    (run.path / "model").rename(run.path / "elsewhere")
    with pytest.raises(DataError, match=r"holds no trained model yet; .*--resume"):
        vlrft.evaluate(run)
