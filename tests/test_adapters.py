"""Adapters: exact against peft's own model, merged for engines and files, and a run that saves and resumes them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import assert_same_run
from transformers import AutoModelForImageTextToText

import vlrft
from vlrft import checkpoint, training
from vlrft.adapters import adapted_layers, adapters_off, is_adapter, owner, plain_state_dict, save_adapter
from vlrft.compose import ConfigError, compose, stage_configs
from vlrft.config import AdapterConfig, DataConfig, ModelConfig, TinyModelConfig
from vlrft.engines.base import Request, SamplingParams
from vlrft.engines.canary import trainer_logprobs
from vlrft.engines.hf import HFEngine
from vlrft.engines.weights import WeightFolder
from vlrft.log import UserError
from vlrft.logprob import HeadOptions
from vlrft.models import load_family
from vlrft.models.base import Family
from vlrft.models.tiny import build_tiny
from vlrft.pack import count, pack
from vlrft.policy import Policy
from vlrft.selection import select
from vlrft.setup import check_config, check_learning
from vlrft.testing import make_group, make_prompt, plain_logps, random_completions, tiny_recipe
from vlrft.types import Group

peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'vlrft[peft]'")

ALL = ["language_model", "projector", "vision_tower"]
FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"]


def tiny(family: str = "qwen2_5_vl") -> TinyModelConfig:
    return TinyModelConfig(family=family, hidden_size=64, num_layers=2, intermediate_size=96, vision_hidden_size=32,
                           vision_layers=3, vision_intermediate_size=64, number_tokens=10)  # fmt: skip


def build(family: str = "qwen2_5_vl", *, checkpointing: bool = False, **adapter: Any) -> Family:
    """A model whose adapters have moved: B is no longer zero."""
    config = ModelConfig(tiny=tiny(family), adapter=AdapterConfig(r=4, **adapter), gradient_checkpointing=checkpointing)
    made = load_family(config, DataConfig())
    select(made, config, "grpo")
    move(made)
    return made


def move(family: Family, scale: float = 0.1) -> None:
    with torch.no_grad():
        for name, parameter in family.model.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                parameter += scale * noise * parameter.abs().mean().clamp(min=1.0)


def with_peft(family: Family, folder: Path) -> Any:
    """The plain model under peft's own wrapper, with the adapter as it was saved."""
    save_adapter(family.model, folder)
    base, _ = build_tiny(tiny(family.model.config.model_type))
    return peft.PeftModel.from_pretrained(base, folder, is_trainable=True)


def groups(family: Family) -> list[Group]:
    scenes = [([(84, 56)], [4, 6]), ([], [3, 5]), ([(56, 56, 4), (84, 84)], [2, 7, 3])]
    return [
        make_group(make_prompt(family, f"scene-{i}", sizes), random_completions(family, lengths, seed=i))
        for i, (sizes, lengths) in enumerate(scenes)
    ]


def packed_logps(family: Family, scenes: list[Group]) -> torch.Tensor:
    """In the order of completions, with gradients."""
    policy = Policy(family, HeadOptions(banned_ids=family.banned_ids, accumulate_in_place=True))
    policy.train()
    batches = pack(scenes, family.collate_media, token_budget=4096, aggregation="token_mean_global",
                   max_completion_length=16, counts=count(scenes))  # fmt: skip
    assert len(batches) == 1
    return policy(**batches[0].inputs, layout=batches[0].layout)["logp"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qwen2_5_vl", {"parts": ALL}),
        ("qwen2_5_vl", {"parts": ["language_model"], "checkpointing": True, "use_rslora": True}),
        ("qwen2_5_vl", {"parts": ["vision_tower", "language_model"], "use_dora": True}),
        ("qwen2_vl", {"parts": ALL}),
        ("qwen3_vl", {"parts": ALL}),
        ("internvl", {"parts": ALL}),
    ],
)
def test_packed_log_probs_and_gradients_are_those_of_pefts_model(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    family = build(name, **options)
    scenes = groups(family)
    ours = packed_logps(family, scenes)
    theirs_model = with_peft(family, tmp_path)
    theirs = torch.cat([logp for group in scenes for logp in plain_logps(theirs_model, family, group)])
    assert float((ours - theirs).detach().abs().max()) < 1e-5
    with adapters_off(family.model), torch.no_grad():
        assert float((packed_logps(family, scenes) - theirs.detach()).abs().max()) > 1e-2, "the adapters do something"

    coefficients = torch.linspace(-1.0, 1.0, len(ours))
    (ours * coefficients).sum().backward()
    (theirs * coefficients).sum().backward()
    expected = {key.removeprefix("base_model.model."): p.grad for key, p in theirs_model.named_parameters()}
    learning = [key for key, p in family.model.named_parameters() if p.requires_grad]
    assert learning == [key for key, _ in family.model.named_parameters() if is_adapter(key)]
    for key, parameter in family.model.named_parameters():
        if key in learning:
            assert parameter.grad is not None, key
            largest = float(expected[key].abs().max())
            assert float((parameter.grad - expected[key]).abs().max()) <= 1e-4 * largest, key
        else:
            assert parameter.grad is None, f"no gradient is made of {key}"


@pytest.mark.parametrize("dora", [False, True])
def test_merged_weights_are_the_same_model(dora: bool) -> None:
    family = build(parts=ALL, use_dora=dora)
    scenes = groups(family)
    plain, _ = build_tiny(tiny())
    merged = plain_state_dict(family.model)
    assert list(merged) == list(plain.state_dict())
    base = plain_state_dict(family.model, merged=False)
    assert all(torch.equal(base[key], value) for key, value in plain.state_dict().items())
    plain.load_state_dict(merged)
    with torch.no_grad():
        expected = torch.cat([logp for group in scenes for logp in plain_logps(plain, family, group)])
        assert float((packed_logps(family, scenes) - expected).abs().max()) < 1e-5


def test_adapters_are_float32_and_start_alike_whatever_torch_drew_before() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = load_family(ModelConfig(tiny=tiny(), dtype="bfloat16", adapter=AdapterConfig(r=4)), DataConfig())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = load_family(ModelConfig(tiny=tiny(), dtype="bfloat16", adapter=AdapterConfig(r=4)), DataConfig())
    theirs = dict(second.model.named_parameters())
    for name, parameter in first.model.named_parameters():
        assert parameter.dtype == (torch.float32 if is_adapter(name) else torch.bfloat16)
        assert torch.equal(parameter, theirs[name])


def test_the_head_is_never_adapted_and_parts_are_kept_apart() -> None:
    for name in FAMILIES:
        for part in ALL:
            family = build(name, parts=[part])
            layers = adapted_layers(family.model)
            assert layers
            assert {family.part_of(f"{layer}.weight") for layer in layers} == {part}
            assert "lm_head" not in layers


@pytest.mark.parametrize("dora", [False, True])
def test_the_engine_of_the_trainer_samples_with_the_adapters(dora: bool) -> None:
    family = build(parts=ALL, use_dora=dora)
    prompt = make_prompt(family, "one", [(84, 56)])
    (completions,) = HFEngine(family).generate([Request(prompt=prompt, seeds=(1, 2, 3))], SamplingParams(max_tokens=9))
    group = make_group(prompt, [c.token_ids for c in completions])
    plain, _ = build_tiny(tiny())
    plain.load_state_dict(plain_state_dict(family.model))
    with torch.no_grad():
        for completion, logps in zip(completions, plain_logps(plain, family, group), strict=True):
            assert completion.logprobs == pytest.approx(logps.tolist(), abs=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_engines_are_given_merged_weights_under_published_names(name: str) -> None:
    family = build(name, parts=ALL)
    folder = WeightFolder(family)
    try:
        loaded, report = AutoModelForImageTextToText.from_pretrained(folder.write(), output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        merged = plain_state_dict(family.model)
        for key, value in loaded.state_dict().items():
            assert torch.equal(value, merged[key]), key
    finally:
        folder.close()


def blocks(**changes: Any) -> dict[str, Any]:
    made = {
        "stages": [{"kind": "sft", "train": {"steps": 2}}, {"kind": "grpo", "train": {"steps": 4}}],
        "objective": {"minibatches": 2, "beta": 0.05},
        "train": {"save_steps": 2, "prompts_per_step": 4, "learning_rate": 1e-2},
        "parallel": {"cpu": True, "num_threads": 1},
    }
    return {**made, **changes}


Make = Callable[..., dict[str, Any]]


def adapted(recipe: dict[str, Any], **adapter: Any) -> dict[str, Any]:
    return {**recipe, "model": {**recipe["model"], "adapter": {"r": 4, "dropout": 0.1, **adapter}}}


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with adapters on all parts and dropout."""
    folder = tmp_path_factory.mktemp("adapters") / "run"
    return vlrft.train(adapted(tiny_recipe(scenes, folder, **blocks()), parts=ALL)).path


def test_a_run_saves_its_model_merged_and_its_adapter_for_peft(finished: Path) -> None:
    config = compose(finished / "config.yaml").config
    assert config.model.tiny is not None
    base, _ = build_tiny(config.model.tiny)
    before = {key: value.clone() for key, value in base.state_dict().items()}
    merged = AutoModelForImageTextToText.from_pretrained(finished / "model")
    assert any(not torch.equal(before[key], value) for key, value in merged.state_dict().items())
    family = load_family(config.model.model_copy(update={"adapter": None}), config.data)
    group = make_group(make_prompt(family, "one", [(56, 56)]), random_completions(family, [6, 4]))
    loaded = peft.PeftModel.from_pretrained(base, finished / "adapter")
    with torch.no_grad():
        for ours, theirs in zip(plain_logps(merged, family, group), plain_logps(loaded, family, group), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
    about = json.loads((finished / "adapter" / "adapter_config.json").read_text())
    assert (about["peft_type"], about["r"], about["bias"]) == ("LORA", 4, "none")


def test_what_is_compared_with_the_engine_has_no_dropout(stage: Callable[..., Any], scenes: Path) -> None:
    blocks = adapted({"model": tiny_recipe(scenes, scenes)["model"]}, dropout=0.5)
    run = stage(**blocks)
    policy, objective = run.state.policy, run.objective
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if is_adapter(name):
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    run.worker.engine.sync(1)
    groups = run.rollouts.next(run).scored.groups
    batches = training.pack_step(run, training.Minibatch(groups=groups))
    objective.annotate(batches, run.state.wrapped, None)
    policy.train()
    tokens = sum(float(batch.loss_mask_N.sum()) for batch in batches)

    def gap() -> float:
        """Mean distance of what the loss compares, and with one optimiser step a ratio of 1."""
        total = 0.0
        for batch in batches:
            output = run.state.wrapped(**batch.inputs, layout=batch.layout)
            total += objective.loss(batch, output)[1]["engine_gap"]
            assert "old_logp_N" not in batch.annotations
        return total / tokens

    assert gap() < 1e-4
    for batch in batches:
        batch.annotations.clear()
    assert gap() > 1e-2, "dropout is at work"
    run.close()


def test_a_run_changes_adapters_only(finished: Path) -> None:
    last = checkpoint.load_latest(finished)
    assert last is not None
    config = compose(finished / "config.yaml").config
    start = load_family(config.model, config.data).model.state_dict()
    kept = {name: last.tensor(name) for name in last.names()}
    assert set(kept) == {name for name in start if is_adapter(name)}, "a checkpoint does without the base"
    assert not any(torch.equal(value, start[name]) for name, value in kept.items())
    plain = load_family(config.model.model_copy(update={"adapter": None}), config.data).model
    trained = AutoModelForImageTextToText.from_pretrained(finished / "model").state_dict()
    changed = {name for name, value in plain.state_dict().items() if not torch.equal(value, trained[name])}
    assert changed == {owner(name) for name in kept}


def test_a_resumed_run_with_adapters_ends_the_same(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    for newest in checkpoint.complete(run)[-1:]:
        shutil.rmtree(newest)
    shutil.rmtree(run / "adapter")
    vlrft.train(resume=run)
    assert_same_run(run, finished)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (run / "adapter" / name).read_bytes() == (finished / "adapter" / name).read_bytes()


def test_evaluating_a_run_with_adapters_takes_the_merged_model(finished: Path) -> None:
    again = vlrft.evaluate(finished, parallel__num_threads=1)
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "eval"][-1]
    assert {key: value for key, value in last.items() if key.startswith("eval/")} == again.metrics


@pytest.mark.parametrize(
    ("model", "engine", "message"),
    [
        (
            {"adapter": {"parts": ["vision_tower"]}},
            {"kwargs": {"adapter_sync": "hot"}},
            r"leave out those on the vision",
        ),
        ({"adapter": {"use_dora": True}}, {"kwargs": {"adapter_sync": "hot"}}, r"vLLM has no DoRA"),
        ({"adapter": {"r": 1024}}, {"kwargs": {"adapter_sync": "hot"}}, r"ranks up to 512 .*adapter\.r=1024"),
        ({}, {"kwargs": {"adapter_sync": "hot"}}, r"model\.adapter is not set"),
        (
            {"adapter": {"parts": ["projector"]}, "freeze_projector": True},
            {},
            r"only parts that model\.freeze_\* freezes",
        ),
    ],
)
def test_what_cannot_be_is_refused_early(
    recipe: Make, model: dict[str, Any], engine: dict[str, Any], message: str
) -> None:
    made = recipe(engine=engine)
    composed = compose({**made, "model": {**made["model"], **model}})
    with pytest.raises(ConfigError, match=message):
        check_learning(composed.config)


def test_an_adapter_is_one_for_the_run(recipe: Make) -> None:
    made = recipe(stages=[{"kind": "sft"}, {"kind": "grpo", "model": {"adapter": {"r": 2}}}])
    composed = compose(made)
    with pytest.raises(ConfigError, match=r"sets model\.adapter, which is one for the whole run"):
        check_config(composed.config, stage_configs(composed.config))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"kind=qlora needs bitsandbytes: pip install bitsandbytes"):
        build(kind="qlora")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"model\.adapter needs peft: pip install 'vlrft\[peft\]'"):
        build()


def test_four_bit_weights_learn_and_are_merged(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install bitsandbytes")
    family = build(kind="qlora")
    layers = adapted_layers(family.model)
    assert all(layer.get_base_layer().weight.dtype == torch.uint8 for layer in layers.values())
    scenes = groups(family)
    ours = packed_logps(family, scenes)
    merged = plain_state_dict(family.model)
    plain, _ = build_tiny(tiny())
    own = {key: value.clone() for key, value in plain.state_dict().items()}
    assert list(merged) == list(own)
    changed = {key for key in own if not torch.equal(own[key], plain_state_dict(family.model, merged=False)[key])}
    assert changed == {f"{name}.weight" for name in layers}, "rounded to 4 bits"
    plain.load_state_dict(merged)
    expected = torch.cat([logp for group in scenes for logp in plain_logps(plain, family, group)])
    assert float((ours - expected).detach().abs().max()) < 1e-4
    ours.sum().backward()
    assert all((p.grad is not None) == is_adapter(name) for name, p in family.model.named_parameters())
    prompt = make_prompt(family, "one", [(84, 56)])
    (completions,) = HFEngine(family).generate([Request(prompt=prompt, seeds=(1, 2))], SamplingParams(max_tokens=5))
    with torch.no_grad():
        logps = plain_logps(plain, family, make_group(prompt, [c.token_ids for c in completions]))
    for completion, expected_logps in zip(completions, logps, strict=True):
        assert completion.logprobs == pytest.approx(expected_logps.tolist(), abs=1e-4)


@pytest.mark.gpu
def test_four_bit_weights_on_cuda_are_merged_into_the_same_model() -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install bitsandbytes")
    family = build(kind="qlora")
    family.model.cuda()
    plain, _ = build_tiny(tiny())
    plain.load_state_dict(plain_state_dict(family.model))
    plain.cuda()
    prompt, tokens = make_prompt(family, "one", [(84, 56)]), (1, 2, 3)
    ids = torch.tensor([[*prompt.token_ids, *tokens]])
    inputs = {key: value.cuda() for key, value in family.library_inputs(prompt, ids).items()}
    with torch.no_grad():
        logits = plain(input_ids=ids.cuda(), attention_mask=torch.ones_like(ids).cuda(), **inputs).logits[0, -4:-1]
    expected = logits.log_softmax(-1).gather(1, ids[0, -3:, None].cuda())[:, 0].tolist()
    assert trainer_logprobs(family, prompt, tokens) == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_a_run_on_four_bit_weights_resumes_the_same(scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install bitsandbytes")
    made = adapted(tiny_recipe(scenes, tmp_path / "run", **blocks()), kind="qlora")
    run = vlrft.train(made).path
    again = shutil.copytree(run, tmp_path / "again")
    for newest in checkpoint.complete(again)[-1:]:
        shutil.rmtree(newest)
    vlrft.train(resume=again)
    assert_same_run(again, run)
