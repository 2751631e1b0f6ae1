"""Bitwise resume: runs killed by SIGKILL at awkward moments end exactly like the run that nobody touched."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import vlrft
from vlrft import checkpoint
from vlrft.compose import compose, stage_configs
from vlrft.log import UserError
from vlrft.rollout import RolloutWorker
from vlrft.runfolder import RunFolder, RunFolderError, read_metrics
from vlrft.testing import noise_image, tiny_recipe

STAGES = [{"kind": "sft", "train": {"steps": 3}}, {"kind": "grpo", "train": {"steps": 3}}]

PRELOAD = [
    "omegaconf",
    "vlrft.eval.run",
    "vlrft.stages",
    "vlrft.testing",
    "vlrft.engines.hf",
    "vlrft.models.tiny",
    "vlrft.models.qwen2_5_vl",
    "transformers.models.auto.processing_auto",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "transformers.models.qwen2_5_vl.processing_qwen2_5_vl",
]
"""Modules that take seconds to import."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """SIGKILL at the n-th call of `target` (module:attribute) whose first argument mentions `about`."""

    target: str
    call: int = 1
    about: str = ""
    half_written: bool = False
    """Let the call, whose first argument is a file, write some bytes first."""


# Optimiser steps: 1-3 in SFT, then two per rollout. Checkpoints: after SFT 2 and 3, GRPO 2 and 3.
KILLS = {
    "before any checkpoint": Kill(target="vlrft.training:optimizer_step", call=2),
    "in the SFT stage": Kill(target="vlrft.training:optimizer_step", call=3),
    "after the first rollout": Kill(target="vlrft.training:optimizer_step", call=4),
    "after a rollout past a checkpoint": Kill(target="vlrft.training:optimizer_step", call=8),
    "between optimiser steps of one rollout": Kill(target="vlrft.training:optimizer_step", call=9),
    "between optimiser steps, two rollouts after a checkpoint": Kill(target="vlrft.training:optimizer_step", call=7),
    "while a rollout is written": Kill(target="os:replace", about="rollouts/grpo-000002"),
    "during a checkpoint write": Kill(target="vlrft.checkpoint:_write_state", call=3, half_written=True),
    "before a checkpoint's tensors are written": Kill(target="safetensors.torch:save_file", call=3),
    "while an evaluation is written": Kill(target="os:replace", about="rollouts/eval-grpo-000003"),
    "before the model is saved": Kill(target="vlrft.runfolder:RunFolder.finish"),
}


def run_and_die(recipe: dict[str, Any], kill: Kill) -> None:
    """What the doomed process runs."""
    module, _, path = kill.target.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def deadly(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += any(kill.about in str(argument) for argument in arguments[:2])
        if calls == kill.call:
            if kill.half_written:
                arguments[0].write_bytes(b"PK half a checkpoint")
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, deadly)
    vlrft.train(recipe)


def die(recipe: dict[str, Any], kill: Kill) -> None:
    # A fork server that has imported everything and computed nothing: children start at once, and no thread is forked.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    child = context.Process(target=run_and_die, args=(recipe, kill))
    child.start()
    child.join(timeout=120)
    assert child.exitcode == -signal.SIGKILL


def blocks(beta: float = 0.05) -> dict[str, Any]:
    return {
        "stages": STAGES,
        "objective": {"minibatches": 2, "beta": beta},
        "train": {"save_steps": 2, "prompts_per_step": 4, "learning_rate": 1e-3, "lr_scheduler": "cosine"},
        # Sums must not depend on how many threads the processes happen to have.
        "parallel": {"cpu": True, "num_threads": 1},
        "eval": {"every": 2, "metrics": ["box.iou", "vlrft.testing:even_share"]},
    }


@pytest.fixture(scope="module")
def untouched(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untouched") / "run"
    return vlrft.train(tiny_recipe(scenes, folder, **blocks())).path


def rows(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(run)]


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested state as leaves: tensors as bytes."""
    if isinstance(value, dict):
        return {k: v for name, item in value.items() for k, v in flat(item, f"{key}.{name}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{key}.{i}").items()}
    if isinstance(value, torch.Tensor):
        return {key: (str(value.dtype), tuple(value.shape), value.contiguous().view(-1).numpy().tobytes())}
    return {key: value.tobytes() if hasattr(value, "tobytes") else value}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def assert_same_run(run: Path, expected: Path) -> None:
    assert rows(run) == rows(expected)
    assert [p.name for p in checkpoint.complete(run)] == [p.name for p in checkpoint.complete(expected)]
    ours, theirs = checkpoint.load_latest(run), checkpoint.load_latest(expected)
    assert ours is not None
    assert theirs is not None
    assert flat(ours.state) == flat(theirs.state)
    assert ours.names() == theirs.names()
    for name in ours.names():
        assert torch.equal(ours.tensor(name), theirs.tensor(name)), name
        assert flat(dict(ours.optimizer_states(name))) == flat(dict(theirs.optimizer_states(name))), name
    assert files(run / "model") == files(expected / "model")
    assert files(run / "rollouts") == files(expected / "rollouts")


ALWAYS = ("during a checkpoint write", "between optimiser steps of one rollout")
"""The kills of every test run; the others are slow."""


@pytest.mark.parametrize(
    "name", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in KILLS]
)
def test_a_killed_run_ends_like_the_untouched_one(name: str, untouched: Path, scenes: Path, tmp_path: Path) -> None:
    die(tiny_recipe(scenes, tmp_path / "run", **blocks()), KILLS[name])
    assert not (tmp_path / "run" / "summary.json").exists()
    resumed = vlrft.train(resume=tmp_path / "run")
    assert_same_run(resumed.path, untouched)
    assert not list((tmp_path / "run").rglob(".writing-*"))


LUCK = """
import random

def luck(completions, **columns):
    return [random.random() for _ in completions]
"""


@pytest.mark.slow
def test_luck_in_a_reward_and_a_stage_that_freezes_end_the_same(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "luck.py").write_text(LUCK)
    changes = blocks(beta=0.0) | {"rewards": {"funcs": [{"func": f"{tmp_path}/luck.py:luck"}]}}
    # A gradient clipped by its norm: what the stage before left behind would show.
    changes["train"] |= {"max_grad_norm": 0.01}
    changes["stages"] = [STAGES[0], {**STAGES[1], "model": {"freeze_language_model": True}}]
    untouched = vlrft.train(tiny_recipe(scenes, tmp_path / "untouched", **changes)).path
    die(tiny_recipe(scenes, tmp_path / "run", **changes), KILLS["after the first rollout"])
    resumed = vlrft.train(resume=tmp_path / "run").path
    assert next(r["reward/mean"] for r in rows(resumed) if "reward/mean" in r) > 0.0
    assert rows(resumed) == rows(untouched)
    assert files(resumed / "model") == files(untouched / "model")


def test_a_stored_rollout_is_used_again(
    untouched: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(tiny_recipe(scenes, tmp_path / "run", **blocks()), KILLS["after the first rollout"])
    generated: list[int] = []
    original = RolloutWorker.rollout

    def rollout(self: RolloutWorker, rendered: Any, config: Any, seed_key: tuple[Any, ...]) -> Any:
        generated.append(seed_key[-1])
        return original(self, rendered, config, seed_key)

    monkeypatch.setattr(RolloutWorker, "rollout", rollout)
    vlrft.train(resume=tmp_path / "run")
    assert generated == [1, 2]


def test_a_rollout_of_other_weights_is_not_used(untouched: Path, tmp_path: Path) -> None:
    run = shutil.copytree(untouched, tmp_path / "run")
    shutil.rmtree(checkpoint.complete(run)[-1])
    path = run / "rollouts" / "grpo-000003.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        for rollout in record["rollouts"]:
            rollout["policy_version"] += 1
            rollout["reward"] = 7.0
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    vlrft.train(resume=run)
    assert_same_run(run, untouched)


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(untouched: Path, tmp_path: Path) -> None:
    run = shutil.copytree(untouched, tmp_path / "run")
    newest = checkpoint.complete(run)[-1]
    os.truncate(newest / "tensors-00001-of-00001.safetensors", 1000)
    vlrft.train(resume=run)
    assert_same_run(run, untouched)
    assert checkpoint.load(newest).names(), "it is whole again"


def test_a_damaged_rollout_file_is_named(untouched: Path, tmp_path: Path) -> None:
    run = shutil.copytree(untouched, tmp_path / "run")
    shutil.rmtree(checkpoint.complete(run)[-1])
    path = run / "rollouts" / "grpo-000003.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match=r"grpo-000003\.jsonl:\d+ is not JSON.*delete the file"):
        vlrft.train(resume=run)


def test_resuming_a_finished_run_changes_nothing(untouched: Path, tmp_path: Path) -> None:
    run = shutil.copytree(untouched, tmp_path / "run")
    assert vlrft.train(resume=run).summary["steps"] == 6
    assert_same_run(run, untouched)


def test_the_reference_is_the_policy_at_the_start_of_the_stage(untouched: Path, tmp_path: Path) -> None:
    reference = torch.load(untouched / "reference-grpo.pt", weights_only=True)
    final = checkpoint.load_latest(untouched)
    assert final is not None
    name = "model.language_model.norm.weight"
    assert not torch.equal(reference[name], final.tensor(name))
    kls = [row["policy/kl"] for row in rows(untouched) if row["stage"] == "grpo" and row["kind"] == "train"]
    assert 0.0 < kls[0] < kls[-1], "the first of two optimiser steps has KL 0"

    run = shutil.copytree(untouched, tmp_path / "run")
    shutil.rmtree(checkpoint.complete(run)[-1])
    (run / "reference-grpo.pt").unlink()
    with pytest.raises(ValueError, match=r"reference-grpo\.pt is missing"):
        vlrft.train(resume=run)


def test_rows_after_the_checkpoint_are_cut(untouched: Path, tmp_path: Path) -> None:
    run = shutil.copytree(untouched, tmp_path / "run")
    shutil.rmtree(checkpoint.complete(run)[-1])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "grpo", "kind": "train", "step": 9, "global_step": 12}\n{"torn')
    vlrft.train(resume=run)
    assert_same_run(run, untouched)


def test_old_checkpoints_go_and_torn_ones_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".writing-00000009-00").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".writing-00000009-00" / "state.pt").write_bytes(b"half")
    assert checkpoint.load_latest(tmp_path) is None
    for step in range(4):
        checkpoint.save(tmp_path, f"{step:08d}-00", {"step": step}, iter([("w", {"weight": torch.ones(2)})]), keep=2)
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["00000002-00", "00000003-00"]
    newest = checkpoint.load_latest(tmp_path)
    assert newest is not None
    assert (newest.state["step"], newest.tensor("w").tolist()) == (3, [1.0, 1.0])
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_resumed_run_keeps_its_config(untouched: Path) -> None:
    with pytest.raises(UserError, match=r"keeps its own config.*leave out train\.steps"):
        vlrft.train(None, "train.steps=9", resume=untouched)
    with pytest.raises(UserError, match=r"leave out train\.steps"):
        vlrft.train(resume=untouched, train__steps=9)


def test_a_run_does_not_depend_on_where_it_was_started(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scenes.parent)
    config = tiny_recipe(Path(scenes.name), tmp_path / "run", stages=[{"kind": "sft", "data": {"root": "."}}])
    composed = compose(config)
    RunFolder(tmp_path / "run").open(composed, (), resuming=False)
    monkeypatch.chdir(tmp_path)
    saved = compose(tmp_path / "run" / "config.yaml").config
    assert saved.data.root == str(scenes)
    assert stage_configs(saved)[0].config.data.root == str(scenes.parent)


def test_a_start_that_was_killed_leaves_the_folder_usable(tmp_path: Path) -> None:
    (tmp_path / "run" / ".starting-x1").mkdir(parents=True)
    (tmp_path / "run" / ".lock").write_text("999999 elsewhere\n")
    folder = RunFolder(tmp_path / "run")
    folder.refuse_other_run(resuming=False)
    folder.open(compose(tiny_recipe(tmp_path / "scenes", tmp_path / "run")), (), resuming=False)
    folder.close()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.yaml", "config_origins.json"}


def test_resuming_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run in .*config\.yaml is missing"):
        vlrft.train(resume=tmp_path)


def test_a_folder_that_holds_another_run(untouched: Path, scenes: Path) -> None:
    before = files(untouched / "rollouts")
    with pytest.raises(RunFolderError, match=r"holds another run.*vlrft train --resume"):
        vlrft.train(tiny_recipe(scenes, untouched, **blocks()))
    assert files(untouched / "rollouts") == before


@pytest.mark.slow
def test_a_file_that_turns_out_unreadable_costs_nothing_that_was_computed(tmp_path: Path) -> None:
    """Met in the middle of a run: saved before that step, named with its sample, and left out when asked to."""
    rows = []
    for i in range(4):
        noise_image((56, 56), i).save(tmp_path / f"{i}.png")
        rows.append({"id": f"row-{i}", "prompt": "?", "images": [f"{i}.png"], "answer": [0, 0, 14, 14]})
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])  # its header is sound
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"format": "native", "path": str(tmp_path / "rows.jsonl"), "images": str(tmp_path)}
    data = {"root": str(tmp_path), "train": source, "eval": None, "check_images": 0}
    train = {"steps": 4, "prompts_per_step": 1}
    recipe = tiny_recipe(tmp_path, tmp_path / "run", data=data, train=train, sampler={"name": "sequential"})
    with pytest.raises(UserError, match=r"sample 'row-2': .*2\.png.*saved after step 2.*on_bad_sample=skip") as caught:
        vlrft.train(recipe)
    assert f"vlrft train --resume {tmp_path / 'run'}" in str(caught.value)
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
    with pytest.raises(UserError, match="saved after step 2"):
        vlrft.train(resume=tmp_path / "run")
    with pytest.raises(UserError, match=r"leave out train\.steps"):
        vlrft.train(None, "train.steps=9", resume=tmp_path / "run")
    finished = vlrft.train(None, "data.on_bad_sample=skip", resume=tmp_path / "run")
    steps = [row["step"] for row in read_metrics(finished.path) if row["kind"] == "train"]
    assert steps == [1, 2, 3, 4]
    assert "row-2" in (finished.path / "skipped.jsonl").read_text()
    assert "on_bad_sample: skip" in (finished.path / "config.yaml").read_text()
