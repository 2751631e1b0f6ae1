"""Recipes, overrides, stages: what composes, what is refused, and with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlrft.compose import ConfigError, compose, save_resolved, stage_configs
from vlrft.config import Config, ModelConfig, TinyModelConfig
from vlrft.config_keys import NOTES, PEER_KEYS, default_of, suggest, valid_keys
from vlrft.recipe import recipe_names, recipe_path

RECIPE = """# A recipe for tests.
model:
  tiny: {hidden_size: 32}
data:
  prompt_template: "cost ${5 {{ question }}"
  train:
    options: {text: "1e-5", kinds: [square, disc]}
train:
  steps: 10
  learning_rate: 1e-4
stages:
  - kind: sft
    train: {learning_rate: 1e-3}
  - kind: grpo
    name: rl
    rewards:
      funcs: [{func: box.iou}]
"""
TINY: dict[str, Any] = {"model": {"tiny": {}}}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE)
    return path


def message(recipe: Any, *overrides: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(recipe, overrides)
    return str(caught.value)


def test_recipe_file_and_overrides(recipe: Path) -> None:
    composed = compose(recipe, ["train.steps=20", "train.learning_rate=1e-5", {"train.steps": 30}])
    assert composed.config.train.steps == 30
    assert composed.config.train.learning_rate == 1e-5
    assert composed.config.data.prompt_template == "cost ${5 {{ question }}"
    assert composed.config.data.train.options == {"text": "1e-5", "kinds": ["square", "disc"]}
    assert composed.recipe_name == "mine"
    assert composed.origins["train.steps"] == "override train.steps=30"
    assert composed.origins["model.tiny.hidden_size"] == f"{recipe}:3"
    assert "train.seed" not in composed.origins


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.lr_scheduler=linear", "linear"),
        ("data.resize=[84, 84]", (84, 84)),
        ("data.eval={path: x.jsonl}", "x.jsonl"),
        ("model.tiny.vocab_size=null", None),
        ("data.root=a=b", "a=b"),
        ("data.root=${HOME}", "${HOME}"),
        ("log.report=no", False),
    ],
)
def test_override_values_are_yaml(override: str, value: object) -> None:
    config = compose(TINY, [override]).config
    found = {
        "train": config.train.lr_scheduler,
        "data.resize": config.data.resize,
        "data.eval": config.data.eval and config.data.eval.path,
        "model": config.model.tiny and config.model.tiny.vocab_size,
        "data.root": config.data.root,
        "log": config.log.report,
    }
    key = override.partition("=")[0]
    assert found[key if key in found else key.partition(".")[0]] == value


def test_list_entry_of_a_default_list_can_be_overridden() -> None:
    composed = compose(TINY, ["rewards.funcs[0].weight=0.25", "rewards.funcs.1.weight=0.75"])
    assert [(f.func, f.weight) for f in composed.config.rewards.funcs] == [
        ("box.iou", 0.25),
        ("format.think_answer", 0.75),
    ]


def test_config_object_and_mapping_compose() -> None:
    config = Config(model=ModelConfig(tiny=TinyModelConfig(hidden_size=64)))
    composed = compose(config, {"train": {"steps": 3}, "train.seed": 5})
    assert composed.config.model == config.model
    assert (composed.config.train.steps, composed.config.train.seed) == (3, 5)
    assert composed.origins["model.tiny.hidden_size"] == "python"
    assert config.train.steps == 100, "the caller's object stays as it was"


def test_stages_lay_their_blocks_over_the_top_level(recipe: Path) -> None:
    config = compose(recipe, ["stages.rl.train.steps=7", "stages[0].train.steps=3"]).config
    sft, grpo = stage_configs(config)
    assert (sft.name, sft.kind, grpo.name, grpo.kind) == ("sft", "sft", "rl", "grpo")
    assert (sft.config.train.steps, sft.config.train.learning_rate) == (3, 1e-3)
    assert (grpo.config.train.steps, grpo.config.train.learning_rate) == (7, 1e-4)
    assert [f.func for f in grpo.config.rewards.funcs] == ["box.iou"], "lists are replaced, not merged"
    assert len(sft.config.rewards.funcs) == 2
    assert [s.kind for s in grpo.config.stages] == ["grpo"]


def test_saved_config_loads_back_equal(recipe: Path, tmp_path: Path) -> None:
    composed = compose(recipe, ["data.resize=[84,56]", "objective.epsilon_high=.inf", "stages.rl.train.seed=4"])
    save_resolved(composed, tmp_path / "run" / "config.yaml")
    again = compose(tmp_path / "run" / "config.yaml")
    assert again.config == composed.config
    assert stage_configs(again.config) == stage_configs(composed.config)
    origins = (tmp_path / "run" / "config_origins.json").read_text()
    assert '"data.resize": "override data.resize=[84,56]"' in origins


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.stepps=3", "unknown key train.stepps; did you mean train.steps? (override train.stepps=3)"),
        ("grpo.num_generations=16", "did you mean engine.num_generations?"),
        ("kl_coef=0.1", "did you mean objective.beta?"),
        ("actor_rollout_ref.rollout.n=8", "did you mean engine.num_generations?"),
        ("train_batch_size=8", "did you mean train.prompts_per_step? (it counts prompts, not completions)"),
        ("clip_ratio_high=0.3", "did you mean objective.epsilon_high?"),
        ("rewards.funcs[1].weigth=2", "did you mean rewards.funcs[1].weight?"),
        ("log.zzz=2", "valid in log: tensorboard, rollouts, report, progress"),
        ("zzz=2", "valid in the top level: model, data,"),
        ("train.steps=abc", "train.steps: input should be a valid integer"),
        ("train.steps.x=5", "(override train.steps.x=5)"),
        ("parallel.mixed_precision=fp16", "input should be 'no' or 'bf16', got 'fp16'"),
        ("train=5", "train: input should be a valid dictionary"),
        ("engine.num_generations=1", "a group needs at least 2 completions"),
        ("model.model_name_or_path=x", "give exactly one of model.model_name_or_path and model.tiny (override model"),
        ("train.steps", "override 'train.steps' is not KEY=VALUE"),
        ("train..steps=1", "is not a dotted key"),
        ("data.root={{ x }}", "inside [] and {} a space follows every colon"),
        ("rewards.funcs[7].weight=1", "rewards.funcs has only 2 entries"),
        ("stages.none.train.steps=1", "no stage 'none'; stages of this recipe: grpo"),
        ("stages=[]", "stages is empty"),
        ("stages=[{kind: sft}, {kind: sft}]", "stages[1]: a second stage is called 'sft'"),
        ("stages=[{kind: sft, name: a/b}]", "must be fit for a file name"),
        ("stages=[{kind: sft, train: {foo: 1}}]", "unknown key stages[0].train.foo; valid in train: output_dir"),
        ("stages=[{kind: sft, tran: {steps: 1}}]", "unknown key stages[0].tran.steps; did you mean"),
        ("stages=[{kind: sft, stages: []}]", "stages[0].stages: a stage holds no stages"),
        ("stages.grpo.train.steps=-1", "stages[0].train.steps: input should be greater than or equal to 0, got -1"),
        ("stages.grpo.engine.num_generations=1", "stages[0]: engine.num_generations is 1"),
    ],
)
def test_refused_overrides(override: str, expected: str) -> None:
    assert expected in message(TINY, override)


def test_every_problem_is_reported_with_its_origin(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("model: {tiny: {}}\ntrain:\n  stepps: 3\n  seed: x\n")
    lines = message(path, "kl_coef=1").splitlines()
    assert lines[0] == "3 problems in the config:"
    assert any("train.stepps" in line and f"({path}:3)" in line for line in lines)
    assert any("train.seed" in line and f"({path}:4)" in line for line in lines)
    assert any("objective.beta" in line and "(override kl_coef=1)" in line for line in lines)


def test_override_hidden_by_every_stage_is_refused(recipe: Path) -> None:
    hidden = {**TINY, "stages": [{"kind": "sft", "train": {"steps": 5}}, {"kind": "grpo", "train": {"steps": 6}}]}
    text = message(hidden, "train.steps=1")
    assert "override train.steps=1 has no effect" in text
    assert "stages.sft.train.steps or stages.grpo.train.steps" in text
    assert compose(recipe, ["train.learning_rate=5e-4"]).config.train.learning_rate == 5e-4, "one stage still uses it"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the recipe is empty"),
        ("- a\n", "the recipe is not a mapping of blocks"),
        ("model:\n  tiny: [\n", "bad.yaml:3: not valid YAML"),
        ("model: {tiny: {}}\nmodel: {tiny: {}}\n", "bad.yaml:2: not valid YAML: found duplicate key model"),
        ("train: {steps: 1}\n", "model: is required and not given"),
    ],
)
def test_broken_recipe_files(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert expected in message(path)


def test_recipe_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = recipe_names()[0]
    typo = message(name + "x")
    assert f"did you mean {name!r}?" in typo
    assert "vlrft recipes ls" in typo
    assert "no recipe file ./none.yaml" in message("./none.yaml")
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(RECIPE)
    assert "did you mean the file './mine.yaml'?" in message("mine")
    assert compose("./mine.yaml").config.train.steps == 10


def test_packaged_recipe_by_name() -> None:
    name = recipe_names()[0]
    composed = compose(name)
    assert composed.recipe_name == name
    assert all(origin.startswith(f"recipe {name}:") for origin in composed.origins.values())
    assert recipe_path(name).name == name.rpartition("/")[2] + ".yaml"


def test_peer_names_lead_to_keys_that_exist() -> None:
    assert set(PEER_KEYS.values()) <= set(valid_keys())
    assert set(NOTES) <= set(PEER_KEYS.values())
    assert not set(PEER_KEYS) & set(valid_keys())


def test_suggest_keeps_the_stage_and_the_index() -> None:
    assert suggest("stages[1].train.learnin_rate") == "did you mean stages[1].train.learning_rate?"
    assert suggest("stages[0].rewards.funcs[3].fun") == "did you mean stages[0].rewards.funcs[3].func?"


def test_suggest_goes_by_the_name_and_not_by_the_block() -> None:
    assert suggest("rewards.funcs[0].optons").startswith("did you mean rewards.funcs[0].kwargs?")
    assert suggest("rewards.funcs[0].wight").startswith("did you mean rewards.funcs[0].weight?")
    assert suggest("data.train.optons") == "did you mean data.train.options?"
    assert suggest("rewards.funcs[0].xyzzy").startswith("valid in rewards.funcs[]: func, ")


def test_defaults_by_key() -> None:
    assert default_of("train.steps") == 100
    assert default_of("rewards.funcs") == [
        {"func": "box.iou", "weight": 0.9},
        {"func": "format.think_answer", "weight": 0.1},
    ]
    assert default_of("model.none") is None


def test_what_yaml_cannot_say_is_refused() -> None:
    assert message({**TINY, "sampler": {"kwargs": {"f": object()}}}).startswith("sampler.kwargs.f: a config holds")
    with pytest.raises(ConfigError, match="must be a list"):
        compose(TINY, "train.steps=3")


def test_a_config_changed_in_python_counts_as_it_is_and_is_validated() -> None:
    config = Config(model=ModelConfig(tiny=TinyModelConfig()))
    config.train.steps, config.engine.num_generations = 5, 4
    composed = compose(config).config
    assert (composed.train.steps, composed.engine.num_generations) == (5, 4)
    with pytest.raises(ValueError, match="valid integer"):
        config.train.steps = "many"  # type: ignore[assignment]


@pytest.mark.parametrize("name", recipe_names())
def test_every_packaged_recipe_composes(name: str) -> None:
    assert stage_configs(compose(name).config)
