"""Mixtures: sources side by side with names, tasks and weights; draws in exact shares; runs that resume exactly."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import vlrft
from vlrft.compose import compose, save_resolved, stage_configs
from vlrft.config import DataConfig, SourceConfig
from vlrft.data.mixture import MixtureSampler, entry_names, sampler_settings
from vlrft.data.problems import DataError
from vlrft.data.sources import load_samples
from vlrft.recipe import ConfigError
from vlrft.runfolder import read_metrics
from vlrft.types import Sample, TextPart

Row = dict[str, Any]
BASE = {"model": {"tiny": {}}}


def _samples(**sizes: int) -> list[Sample]:
    parts = (TextPart(text="x"),)
    return [Sample(id=f"{name}/{i}", task="math", parts=parts) for name, size in sizes.items() for i in range(size)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Image.new("RGB", (56, 56), "gray").save(tmp_path / "a.png")
    box = {"box": [0, 0, 28, 28], "space": "abs_original"}
    boxes = [{"id": i, "prompt": "the dog", "images": ["a.png"], "boxes": box} for i in range(6)]
    questions = [{"id": i, "prompt": "How many?", "images": ["a.png"], "answer": str(i)} for i in range(3)]
    for name, rows in (("boxes", boxes), ("questions", questions)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def _load(root: Path, mixture: list[Row], **data: Any) -> Any:
    return load_samples(DataConfig(root=str(root), **data), SourceConfig(mixture=mixture), role="train")  # type: ignore[arg-type]


def test_sources_keep_their_names_and_tasks(root: Path) -> None:
    loaded = _load(
        root, [{"path": "boxes.jsonl", "limit": 2}, {"path": "questions.jsonl", "task": "open_qa", "name": "qa"}]
    )
    assert [(s.id, s.task) for s in loaded.samples] == [
        ("boxes/0", "grounding"),
        ("boxes/1", "grounding"),
        ("qa/0", "open_qa"),
        ("qa/1", "open_qa"),
        ("qa/2", "open_qa"),
    ]


def test_problems_name_the_entry(root: Path) -> None:
    with pytest.raises(
        DataError, match=r"data\.train\.mixture\[1\]: a second source is called 'boxes'; give it a name"
    ):
        _load(root, [{"path": "boxes.jsonl"}, {"path": "boxes.jsonl"}])
    with pytest.raises(DataError, match=r"data\.train\.mixture\[1\]: no file or folder"):
        _load(root, [{"path": "boxes.jsonl"}, {"path": "none.jsonl", "format": "native"}])
    with pytest.raises(
        DataError, match=r"data\.train\.mixture\[1\]\.format: unknown format 'coc'; did you mean 'coco'"
    ):
        _load(root, [{"path": "boxes.jsonl"}, {"path": "x", "format": "coc"}])
    with pytest.raises(DataError, match=r"data\.train\.mixture\[1\] holds no usable sample; first of 3 skipped"):
        _load(root, [{"path": "boxes.jsonl"}, {"path": "questions.jsonl"}], on_bad_sample="skip")
    weighted = SourceConfig(mixture=[{"path": "boxes.jsonl", "weight": 1}])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"data\.eval: weights are for drawing training samples"):
        load_samples(DataConfig(root=str(root)), weighted, role="eval")


def test_a_list_of_sources_is_a_mixture() -> None:
    listed = compose({**BASE, "data": {"train": [{"path": "a.jsonl"}, {"path": "b.jsonl"}]}}, ["data.train[1].limit=5"])
    assert [entry.path for entry in listed.config.data.train.mixture] == ["a.jsonl", "b.jsonl"]
    assert listed.config.data.train.mixture[1].limit == 5


def test_a_mixture_survives_the_resolved_recipe(tmp_path: Path) -> None:
    composed = compose(
        {**BASE, "data": {"train": [{"path": "a", "weight": 2}, {"path": "b", "weight": 1, "task": "math"}]}}
    )
    save_resolved(composed, tmp_path / "config.yaml")
    assert compose(tmp_path / "config.yaml").config == composed.config
    assert composed.config.data.task_names() == ["grounding", "math"]


def test_a_stage_replaces_the_sources(root: Path) -> None:
    recipe = {
        **BASE,
        "data": {"train": {"path": "a"}},
        "stages": [{"kind": "grpo", "data": {"train": [{"path": "c"}]}}],
    }
    (stage,) = stage_configs(compose(recipe).config)
    assert [entry.path for entry in stage.config.data.train.mixture] == ["c"]
    assert stage.config.data.train.path is None


@pytest.mark.parametrize(
    ("train", "says"),
    [
        ({"path": "x", "mixture": [{"path": "a"}]}, "data.train: has a mixture and path: say it in the entries"),
        ([{"path": "a", "weight": 1}, {"path": "b"}], "data.train: some entries of the mixture have a weight"),
        ([{"path": "a", "weight": 0}], r"data.train.mixture\[0\].weight: input should be greater than 0"),
        ([{"path": "a", "name": "a/b"}], r"data.train.mixture\[0\].name: string should match"),
        ([{"pth": "a"}], r"unknown key data.train.mixture\[0\].pth; did you mean data.train.mixture\[0\].path"),
        ({"weight": 1}, "unknown key data.train.weight"),
    ],
)
def test_a_bad_mixture_is_a_config_error(train: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        compose({**BASE, "data": {"train": train}})


def test_names_come_from_the_paths() -> None:
    source = SourceConfig(
        mixture=[
            {"path": "d/train.v2.jsonl"},
            {"path": "hf://org/set"},
            {"format": "shapes"},
            {"name": "x", "path": "y"},
        ]  # type: ignore[list-item]
    )
    assert entry_names(source.mixture, "data.train") == ["train", "set", "shapes", "x"]


def test_weights_choose_the_sampler() -> None:
    plain = SourceConfig(mixture=[{"path": "a"}, {"path": "b"}])  # type: ignore[list-item]
    weighted = SourceConfig(mixture=[{"path": "a", "weight": 3}, {"path": "b", "weight": 1}])  # type: ignore[list-item]
    assert sampler_settings(plain, "shuffle") == ("shuffle", {})
    assert sampler_settings(SourceConfig(), "sequential") == ("sequential", {})
    assert sampler_settings(weighted, "shuffle") == ("mixture", {"weights": {"a": 3.0, "b": 1.0}})
    with pytest.raises(DataError, match=r"sampler\.name is 'sequential', which knows nothing of the weights"):
        sampler_settings(weighted, "sequential")


sizes = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1)


@given(sizes=sizes, data=st.data(), ns=st.lists(st.integers(1, 12), min_size=1, max_size=15), seed=st.integers(0, 9))
def test_shares_are_kept_and_batches_hold_no_sample_twice(
    sizes: dict[str, int], data: Any, ns: list[int], seed: int
) -> None:
    weights = {name: data.draw(st.floats(0.1, 10)) for name in sizes}
    samples = _samples(**sizes)
    sampler = MixtureSampler(samples, seed=seed, weights=weights)
    # A batch in which every source can have its share in full, whatever the batches before it held.
    most = min(sizes.values())
    drawn: Counter[str] = Counter()
    for step, n in enumerate(ns):
        batch = [sample.id for sample in sampler.propose(step, min(n, most))]
        assert len(batch) == len(set(batch)) == min(n, most)
        drawn.update(name.partition("/")[0] for name in batch)
        total = drawn.total()
        for name, weight in weights.items():
            # The largest-deficit rule keeps every source within the number of sources of its share.
            assert abs(drawn[name] - total * weight / sum(weights.values())) < len(weights)


@given(sizes=sizes, ns=st.lists(st.integers(1, 30), min_size=1, max_size=12), cut=st.integers(0, 12))
def test_a_resumed_mixture_draws_the_same(sizes: dict[str, int], ns: list[int], cut: int) -> None:
    weights = {name: 1.0 + ord(name) % 3 for name in sizes}

    def build() -> MixtureSampler:
        return MixtureSampler(_samples(**sizes), seed=3, weights=weights)

    whole = build()
    expected = [whole.propose(step, n) for step, n in enumerate(ns)]
    first, second = build(), build()
    cut = min(cut, len(ns))
    got = [first.propose(step, n) for step, n in enumerate(ns[:cut])]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    got += [second.propose(step, n) for step, n in enumerate(ns[cut:], start=cut)]
    assert got == expected
    assert all(len(batch) == min(n, sum(sizes.values())) for batch, n in zip(got, ns, strict=True))


def test_a_small_source_is_repeated_and_its_epochs_are_whole() -> None:
    sampler = MixtureSampler(_samples(big=20, small=2), seed=0, weights={"big": 1, "small": 1})
    drawn = [sample.id for step in range(10) for sample in sampler.propose(step, 4)]
    counts = Counter(drawn)
    assert (counts["small/0"], counts["small/1"]) == (10, 10)
    assert sum(counts[f"big/{i}"] for i in range(20)) == 20
    assert all(counts[f"big/{i}"] == 1 for i in range(20))


def test_the_order_within_a_source_does_not_depend_on_the_others() -> None:
    alone = MixtureSampler(_samples(a=9), seed=5, weights={"a": 1}).propose(0, 9)
    beside = MixtureSampler(_samples(a=9, b=9), seed=5, weights={"a": 1, "b": 1}).propose(0, 18)
    assert [s.id for s in beside if s.id.startswith("a/")] == [s.id for s in alone]
    other = MixtureSampler(_samples(a=9), seed=6, weights={"a": 1}).propose(0, 9)
    assert [s.id for s in other] != [s.id for s in alone]


def test_state_and_samples_must_belong_together() -> None:
    sampler = MixtureSampler(_samples(a=3, b=3), seed=0, weights={"a": 1, "b": 1})
    state = sampler.state_dict()
    with pytest.raises(DataError, match="other weights"):
        MixtureSampler(_samples(a=3, b=3), seed=0, weights={"a": 2, "b": 1}).load_state_dict(state)
    with pytest.raises(DataError, match="other samples"):
        MixtureSampler(_samples(a=3, b=2), seed=0, weights={"a": 1, "b": 1}).load_state_dict(state)
    with pytest.raises(DataError, match="another seed"):
        MixtureSampler(_samples(a=3, b=3), seed=1, weights={"a": 1, "b": 1}).load_state_dict(state)
    with pytest.raises(DataError, match=r"sample b/0 belongs to no source of the mixture \(a\)"):
        MixtureSampler(_samples(a=1, b=1), weights={"a": 1})
    with pytest.raises(DataError, match=r"no sample of data\.train's source 'b' is usable"):
        MixtureSampler(_samples(a=1), weights={"a": 1, "b": 1})


def test_a_run_draws_by_weight(recipe: Any, root: Path) -> None:
    boxes = json.loads((root / "boxes.jsonl").read_text().splitlines()[0])
    others = "".join(json.dumps({**boxes, "id": i, "prompt": "the cat"}) + "\n" for i in range(2))
    (root / "cats.jsonl").write_text(others)
    train = [{"path": "boxes.jsonl", "weight": 1}, {"path": "cats.jsonl", "weight": 1}]
    run = vlrft.train(
        recipe(data={"root": str(root), "train": train, "eval": None}, train={"steps": 3, "prompts_per_step": 4})
    )
    drawn: list[str] = []
    for file in sorted((run.path / "rollouts").glob("*.jsonl")):
        drawn += dict.fromkeys(json.loads(line)["sample_id"] for line in file.read_text().splitlines())
    assert Counter(name.partition("/")[0] for name in drawn) == {"boxes": 6, "cats": 6}
    assert len([row for row in read_metrics(run.path) if row["kind"] == "train"]) == 3
