"""`model.train_only`, half fine-tuning and frozen parts: which parameters learn, and nothing else does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from test_resume import assert_same_run

import vlrft
from vlrft import checkpoint
from vlrft.compose import compose
from vlrft.config import AdapterConfig, DataConfig, ModelConfig, TinyModelConfig
from vlrft.log import UserError
from vlrft.models import load_family
from vlrft.models.base import Family
from vlrft.selection import describe, learning, select, trainable_names
from vlrft.testing import tiny_recipe
from vlrft.validate import validate

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"]


def tiny(name: str) -> TinyModelConfig:
    return TinyModelConfig(family=name, hidden_size=64, num_layers=4, intermediate_size=96, vision_hidden_size=32,
                           vision_layers=3, vision_intermediate_size=64, number_tokens=10)  # fmt: skip


@pytest.fixture(scope="module")
def family() -> Family:
    return load_family(ModelConfig(tiny=tiny("qwen2_5_vl")), DataConfig())


def block(name: str = "qwen2_5_vl", **settings: Any) -> ModelConfig:
    return ModelConfig(tiny=tiny(name), **settings)


def names(family: Family, *entries: Any, **settings: Any) -> set[str]:
    return learning(family, block(train_only=list(entries), **settings), "grpo")


def every(family: Family) -> set[str]:
    return {name for name, _ in family.model.named_parameters()}


def test_everything_learns_by_default(family: Family) -> None:
    assert learning(family, block(), "grpo") == every(family)


def test_entries_are_parts_names_beginnings_and_patterns(family: Family) -> None:
    own = every(family)
    assert names(family, "projector") == {n for n in own if n.startswith("model.visual.merger.")}
    assert names(family, "model.language_model.norm.weight") == {"model.language_model.norm.weight"}
    assert names(family, "model.visual.blocks.1") == {n for n in own if n.startswith("model.visual.blocks.1.")}
    assert names(family, "*.q_proj") == {n for n in own if ".q_proj." in n}
    both = names(family, "projector", "*.q_proj.bias")
    assert both == names(family, "projector") | {n for n in own if n.endswith(".q_proj.bias")}


def test_a_shared_matrix_is_known_by_both_its_names(family: Family) -> None:
    assert "lm_head.weight" not in every(family)
    assert names(family, "lm_head") == {"model.language_model.embed_tokens.weight"}


def test_layers_are_those_of_language_model_and_tower(family: Family) -> None:
    own = every(family)
    found = names(family, {"parts": ["language_model"], "layers": ["0-1", 3]})
    assert found == {n for n in own if re.match(r"model\.language_model\.layers\.[013]\.", n)}
    found = names(family, {"layers": [2], "names": ["*.weight"]})
    assert found == {
        n for n in own if re.match(r"model\.(language_model\.layers|visual\.blocks)\.2\.", n) and n.endswith("weight")
    }


def test_freezing_holds_besides(family: Family) -> None:
    found = names(family, "projector", "language_model", freeze_language_model=True)
    assert found == names(family, "projector")


@pytest.mark.parametrize("name", FAMILIES)
def test_half_takes_half_of_every_layer(name: str) -> None:
    made = load_family(block(name), DataConfig())
    found = learning(made, block(name, train_only=[{"half": {"seed": 3}}]), "grpo")
    for layer in range(4):
        inside = {n for n in every(made) if f"language_model.layers.{layer}." in n}
        learns = inside & found
        attention = {m for n in learns if (m := re.search(r"self_attn\.([qkvo])_proj\.weight$", n))}
        assert len(attention) == 2
        assert len({n for n in learns if ".mlp." in n}) in (1, 2)
        assert 0 < len({n for n in learns if "layernorm" in n or "_norm" in n}) < 4
        for n in learns & {n for n in inside if n.endswith("_proj.bias")}:
            assert n.replace(".bias", ".weight") in learns, "a matrix and its bias stay together"
    counts = [
        len({n for n in found if re.search(rf"language_model\.layers\.{i}\.mlp\.\w+\.weight", n)}) for i in range(4)
    ]
    assert sorted(counts) == [1, 1, 2, 2], "of three matrices half of the layers take one more"
    assert not any(".layers." not in n and made.part_of(n) == "language_model" for n in found)
    assert not any(made.part_of(n) == "projector" for n in found)
    tower = {n for n in every(made) if made.part_of(n) == "vision_tower"}
    assert 0 < len(tower & found) < len(tower)


def test_half_is_drawn_anew_by_stage_and_seed_and_drawn_alike_again(family: Family) -> None:
    def drawn(stage: str, seed: int = 0) -> set[str]:
        return learning(family, block(train_only=[{"half": {"seed": seed}}]), stage)

    assert drawn("one") == drawn("one")
    assert drawn("one") != drawn("two")
    assert drawn("one") != drawn("one", seed=1)
    outside = names(family, {"half": {"outside_layers": True}}) - names(family, {"half": {}})
    assert outside == {n for n in every(family) if not re.search(r"\.(layers|blocks)\.", n)}
    some = names(family, {"parts": ["language_model"], "layers": ["0-1"], "half": {}})
    assert all(re.match(r"model\.language_model\.layers\.[01]\.", n) for n in some)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("model.language_model.layer.2", r"'model.language_model.layer.2' fits none of the \d+ parameters.*nearest: .*"
                                         r"model\.language_model\.layers\.2"),
        ("vision_towers", r"'vision_towers' fits none of the \d+ parameters.*parts: language_model, projector"),
        ({"layers": [4], "parts": ["language_model"]}, r"layers 4, but there are 4 layers, counted from 0"),
        ({"layers": ["7-9"]}, r"layers '7-9', but there are 4 layers"),
        ({"parts": ["projector"], "half": {}}, r"no parameter fulfils all of .*projector"),
        ({"parts": ["projector"], "names": ["*.q_proj"]}, r"no parameter fulfils all of"),
    ],
)  # fmt: skip
def test_what_fits_nothing_is_named(family: Family, entry: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        names(family, entry)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "train_only is empty"),
        ([{}], "needs one of parts, layers, names and half"),
        ([{"layers": ["3-1"]}], "ends before it starts"),
        ([{"layers": ["first"]}], "neither a layer number nor a range"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_config(entries: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        block(train_only=entries)


def test_nothing_that_learns_is_refused(family: Family) -> None:
    with pytest.raises(UserError, match=r"every part of the model is frozen: set one of model\.freeze_vision_tower"):
        learning(family, block(freeze_vision_tower=True, freeze_projector=True, freeze_language_model=True), "grpo")
    with pytest.raises(UserError, match=r"train_only and model\.freeze_\* leave no parameter"):
        names(family, "projector", freeze_projector=True)


def test_adapters_learn_under_the_names_of_their_weights() -> None:
    adapter = AdapterConfig(r=2, parts=["language_model", "vision_tower"])
    made = load_family(block(adapter=adapter), DataConfig())
    some = learning(made, block(adapter=adapter, train_only=[{"layers": [1], "names": ["*.q_proj", "*.qkv"]}]), "grpo")
    assert some == {
        f"model.{where}.lora_{matrix}.default.weight"
        for where in ("language_model.layers.1.self_attn.q_proj", "visual.blocks.1.attn.qkv")
        for matrix in "AB"
    }
    half = learning(made, block(adapter=adapter, train_only=[{"half": {}}]), "grpo")
    assert len({n for n in half if "layers.0.self_attn" in n}) == 4, "A and B of two of four"
    with pytest.raises(UserError, match=r"'projector'|no parameter fulfils"):
        learning(made, block(adapter=adapter, train_only=["projector"]), "grpo")


def test_a_checkpoint_has_to_hold_what_some_stage_trains(family: Family) -> None:
    first, second = block(train_only=["projector"]), block(train_only=["*.q_proj"])
    found = trainable_names(family, [("one", first), ("two", second)])
    assert found == learning(family, first, "one") | learning(family, second, "two")


def test_how_many_learn_is_said(family: Family) -> None:
    select(family, block(train_only=["projector"]), "grpo")
    count = sum(p.numel() for n, p in family.model.named_parameters() if n.startswith("model.visual.merger."))
    total = sum(p.numel() for p in family.model.parameters())
    assert describe(family.model) == f"{count:,} of {total:,} parameters learn ({100 * count / total:.1f} %)"


def test_only_what_is_chosen_has_gradients_and_optimiser_states(stage: Callable[..., Any], recipe: Any) -> None:
    from vlrft import training

    chosen = [{"parts": ["language_model"], "layers": [0], "names": ["*.o_proj"]}]
    run = stage(model={**recipe()["model"], "train_only": chosen}, train={"learning_rate": 1e-2})
    before = {name: p.clone() for name, p in run.state.policy.model.named_parameters()}
    training.grpo_step(run)
    for name, parameter in run.state.policy.model.named_parameters():
        mine = "layers.0.self_attn.o_proj" in name
        assert (parameter.grad is not None) == mine, name
        assert torch.equal(parameter, before[name]) != mine, name
    assert sum(len(g["params"]) for g in run.state.optimizer.param_groups) == 1


@pytest.mark.slow
def test_stages_draw_halves_of_their_own_and_a_resumed_run_the_same(scenes: Path, tmp_path: Path) -> None:
    stages = [{"kind": "sft", "name": name, "train": {"steps": 2}} for name in ("one", "two")]
    recipe = tiny_recipe(scenes, tmp_path / "run", stages=stages, parallel={"cpu": True, "num_threads": 1},
                         train={"save_steps": 1, "keep_checkpoints": 9, "learning_rate": 1e-2})  # fmt: skip
    recipe["model"]["train_only"] = [{"half": {"seed": 1}}]
    run = vlrft.train(recipe).path
    states = [load_file(next(p.glob("*.safetensors"))) for p in checkpoint.complete(run)]
    moved = [
        {name.removesuffix("/weight") for name in a if name.endswith("/weight") and not torch.equal(a[name], b[name])}
        for a, b in zip(states[::2], states[1::2], strict=True)
    ]
    config = compose(run / "config.yaml").config
    made = load_family(config.model, config.data)
    drawn = [learning(made, config.model, stage) for stage in ("one", "two")]
    assert drawn[0] != drawn[1]
    assert all(found <= expected for found, expected in zip(moved, drawn, strict=True))
    assert all(found >= {n for n in drawn[i] if n.endswith("_proj.weight")} for i, found in enumerate(moved))
    again = shutil.copytree(run, tmp_path / "again")
    shutil.rmtree(checkpoint.complete(again)[-1])
    shutil.rmtree(checkpoint.complete(again)[-1])
    vlrft.train(resume=again)
    assert_same_run(again, run)


def test_validate_knows_the_names(scenes: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(scenes, tmp_path / "run")
    recipe["model"]["train_only"] = ["model.language_model.layrs"]
    report = validate(compose(recipe), render=True)
    assert not report.ok
    assert re.search(
        r"'model\.language_model\.layrs' fits none.*nearest: model\.language_model\.layers", report.as_text()
    )
