"""The reference policy: frozen, without a copy where adapters allow it, refreshed by schedule, exact over a resume."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from test_resume import assert_same_run

import vlrft
from vlrft import checkpoint, training
from vlrft.adapters import adapters_off, is_adapter
from vlrft.compose import ConfigError, compose
from vlrft.config import ObjectiveConfig
from vlrft.data.problems import DataError
from vlrft.dist import World
from vlrft.reference import FrozenCopy, OwnAdapters, build_reference
from vlrft.runfolder import read_metrics
from vlrft.testing import tiny_recipe

Stage = Callable[..., Any]


def model(recipe: Any, **settings: Any) -> dict[str, Any]:
    return {**recipe()["model"], **settings}


def adapted(recipe: Any, **settings: Any) -> dict[str, Any]:
    pytest.importorskip("peft", reason="peft is not installed: pip install 'vlrft[peft]'")
    return model(recipe, adapter={"r": 2, **settings})


def nudge(run: Any) -> None:
    with torch.no_grad():
        for name, parameter in run.state.policy.model.named_parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))


def synced(**settings: Any) -> dict[str, Any]:
    return {"beta": 0.1, "sync_ref_model": True, **settings}


def some_batches(run: Any) -> list[Any]:
    scored = run.rollouts.next(run).scored
    batches = training.pack_step(run, training.Minibatch(groups=scored.groups))
    assert batches
    return batches


def logps(batches: list[Any], policy: Callable[..., dict[str, torch.Tensor]]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([policy(**batch.inputs, layout=batch.layout)["logp"] for batch in batches])


def test_it_follows_the_policy_by_trls_formula(stage: Stage) -> None:
    run = stage(objective=synced(ref_model_sync_steps=2, ref_model_mixup_alpha=0.6))
    reference = run.reference
    name = "model.language_model.norm.weight"
    policy = dict(run.state.policy.model.named_parameters())[name]
    ours = dict(reference.copy.model.named_parameters())[name]
    expected = ours.clone()
    for step in range(1, 6):
        nudge(run)
        reference.after_step(step)
        if step % 2 == 0:
            expected = 0.6 * policy.detach() + 0.4 * expected
        assert torch.allclose(ours, expected, atol=1e-7), step
    assert not torch.allclose(ours, policy)
    assert (reference.refreshed_at, ours.requires_grad) == (4, False)


def test_the_whole_policy_with_alpha_1_and_nothing_without_the_schedule(stage: Stage) -> None:
    run = stage(objective=synced(ref_model_sync_steps=1, ref_model_mixup_alpha=1.0))
    nudge(run)
    run.reference.after_step(1)
    for ours, theirs in zip(run.reference.copy.model.parameters(), run.state.policy.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()


def test_without_a_schedule_it_stays(stage: Stage) -> None:
    run = stage(objective={"beta": 0.1, "ref_model_sync_steps": 1})
    before = [p.clone() for p in run.reference.copy.model.parameters()]
    nudge(run)
    run.reference.after_step(1)
    assert all(torch.equal(a, b) for a, b in zip(before, run.reference.copy.model.parameters(), strict=True))


def test_what_does_not_learn_is_not_copied(stage: Stage, recipe: Any) -> None:
    run = stage(objective={"beta": 0.1}, model=model(recipe, freeze_vision_tower=True))
    copied = dict(run.reference.copy.model.named_parameters())
    for name, parameter in run.state.policy.model.named_parameters():
        assert (copied[name].data_ptr() == parameter.data_ptr()) == (not parameter.requires_grad), name
    saved = torch.load(run.folder.path / "reference-grpo.pt", weights_only=True)
    assert set(saved) == {name for name, p in run.state.policy.model.named_parameters() if p.requires_grad}


def test_no_reference_with_beta_0(stage: Stage) -> None:
    assert stage().reference is None
    with pytest.raises((ValidationError, ConfigError), match=r"sync_ref_model needs a reference model"):
        ObjectiveConfig(sync_ref_model=True)


def test_adapters_that_start_are_switched_off_instead_of_copied(stage: Stage, recipe: Any) -> None:
    run = stage(objective={"beta": 0.1}, model=adapted(recipe, dropout=0.5), train={"learning_rate": 1e-2})
    reference, policy = run.reference, run.state.policy
    assert isinstance(reference, OwnAdapters)
    assert reference.is_base()
    names, batches = list(policy.model.state_dict()), some_batches(run)
    nudge(run)
    current = [p.clone() for p in policy.model.parameters()]
    policy.train()
    found = logps(batches, partial(reference, run.state.wrapped))
    assert policy.training
    policy.eval()
    assert (logps(batches, policy) - found).abs().max() > 1e-3
    with adapters_off(policy.model):
        assert torch.equal(logps(batches, policy), found), "the base, without dropout"
    assert list(policy.model.state_dict()) == names
    assert all(torch.equal(a, b) for a, b in zip(current, policy.model.parameters(), strict=True))
    assert all(p.requires_grad == is_adapter(name) for name, p in policy.model.named_parameters())


def test_refreshed_adapters_stand_in_for_the_policys_own(stage: Stage, recipe: Any) -> None:
    run = stage(
        objective=synced(ref_model_sync_steps=1, ref_model_mixup_alpha=1.0), model=adapted(recipe, use_dora=True)
    )
    reference, policy = run.reference, run.state.policy
    policy.eval()
    batches = some_batches(run)
    nudge(run)
    then = logps(batches, policy)
    reference.after_step(1)
    nudge(run)
    assert not reference.is_base()
    assert torch.equal(logps(batches, partial(reference, policy)), then)
    assert (logps(batches, policy) - then).abs().max() > 1e-3


def test_kl_starts_again_at_zero_after_a_refresh(stage: Stage, recipe: Any) -> None:
    for chosen in (model(recipe), adapted(recipe)):
        run = stage(
            objective=synced(ref_model_sync_steps=2, ref_model_mixup_alpha=1.0),
            model=chosen,
            train={"learning_rate": 1e-2, "steps": 5},
        )
        kls = []
        for step in range(1, 5):
            kls.append(training.grpo_step(run)["policy/kl"])
            run.state.step = step
            run.reference.after_step(step)
        assert kls[0] == kls[2] == 0.0
        assert min(kls[1], kls[3]) > 0.0
        (run.folder.path / "reference-grpo.pt").unlink()


def test_adapters_learn_under_bfloat16_compute(stage: Stage, recipe: Any) -> None:
    run = stage(
        objective={"beta": 0.1},
        model=adapted(recipe, parts=["language_model", "projector", "vision_tower"]),
        train={"learning_rate": 1e-2, "steps": 3},
        parallel={"cpu": True, "mixed_precision": "bf16"},
    )
    kls = [training.grpo_step(run)["policy/kl"] for _ in range(3)]
    assert kls[0] == 0.0
    assert kls[2] > 0.0
    adapters = [p for name, p in run.state.policy.model.named_parameters() if is_adapter(name)]
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in adapters)


def run_blocks(**objective: Any) -> dict[str, Any]:
    return {
        "stages": [{"kind": "sft", "train": {"steps": 1}}, {"kind": "grpo", "train": {"steps": 7}}],
        "objective": synced(ref_model_sync_steps=2, ref_model_mixup_alpha=0.5, **objective),
        "train": {"save_steps": 3, "keep_checkpoints": 9, "prompts_per_step": 2, "learning_rate": 1e-2},
        "parallel": {"cpu": True, "num_threads": 1},
        "eval": {"every": 0},
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["copy", "adapters"])
def test_a_run_resumed_from_any_checkpoint_finds_the_reference_of_its_moment(
    kind: str, scenes: Path, tmp_path: Path, recipe: Any
) -> None:
    made = tiny_recipe(scenes, tmp_path / "run", **run_blocks())
    if kind == "adapters":
        made["model"] = adapted(recipe)
    run = vlrft.train(made).path
    kept = {p.name for p in run.glob("reference-*")}
    assert kept == {"reference-grpo.pt", "reference-grpo-00000002.pt", "reference-grpo-00000006.pt"}
    names = [p.name for p in checkpoint.complete(run)]
    assert names == ["00000001-01", "00000004-01", "00000007-01", "00000008-02"]
    for lost in (1, 3):
        again = shutil.copytree(run, tmp_path / f"again-{lost}")
        for path in checkpoint.complete(again)[-lost:]:
            shutil.rmtree(path)
        vlrft.train(resume=again)
        assert_same_run(again, run)
    kls = [row["policy/kl"] for row in read_metrics(run) if row["kind"] == "train" and row["stage"] == "grpo"]
    assert kls[0] == 0.0
    assert kls[1] > 0.0


@pytest.mark.slow
def test_references_go_with_the_checkpoints_that_need_them(scenes: Path, tmp_path: Path) -> None:
    blocks = run_blocks()
    blocks["train"] |= {"keep_checkpoints": 2, "save_steps": 1}
    run = vlrft.train(tiny_recipe(scenes, tmp_path / "run", **blocks)).path
    assert [p.name for p in checkpoint.complete(run)] == ["00000007-01", "00000008-02"]
    assert {p.name for p in run.glob("reference-*")} == {"reference-grpo.pt", "reference-grpo-00000006.pt"}
    shutil.rmtree(checkpoint.complete(run)[-1])
    (run / "reference-grpo-00000006.pt").unlink()
    with pytest.raises(DataError, match=r"reference-grpo-00000006\.pt is missing: the reference policy of this stage"):
        vlrft.train(resume=run)


def test_a_reference_of_another_model_is_refused(stage: Stage, tmp_path: Path) -> None:
    run = stage(objective={"beta": 0.1})
    torch.save({"some.weight": torch.zeros(1)}, tmp_path / "reference-x.pt")
    with pytest.raises(DataError, match=r"reference-x\.pt is of another model: model\.\S+ is not in it"):
        build_reference(run.state.policy, run.config.objective, tmp_path / "reference-x.pt", World(), step=0)


@pytest.mark.slow
def test_the_reference_of_a_later_stage_is_the_adapter_as_that_stage_found_it(
    scenes: Path, tmp_path: Path, recipe: Any
) -> None:
    made = tiny_recipe(scenes, tmp_path / "run", **{**run_blocks(), "objective": {"beta": 0.1}})
    made["model"] = adapted(recipe)
    made["stages"][1]["train"]["steps"] = 1
    run = vlrft.train(made).path
    first = load_file(next(checkpoint.complete(run)[0].glob("*.safetensors")))
    after_sft = {name.removesuffix("/weight"): value for name, value in first.items() if name.endswith("/weight")}
    reference = torch.load(run / "reference-grpo.pt", weights_only=True)
    assert set(reference) == set(after_sft)
    assert all(torch.equal(reference[name], value) for name, value in after_sft.items())
    assert any(bool(value.any()) for name, value in reference.items() if ".lora_B." in name)
    assert compose(run / "config.yaml").config.objective.beta == 0.1


def test_which_kind_is_built(stage: Stage, recipe: Any) -> None:
    assert isinstance(stage(objective={"beta": 0.1}).reference, FrozenCopy)
