"""Samples to groups: prompts rendered once, seeds, scores, and records that come back bit by bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlrft import pipeline, training
from vlrft.compose import compose
from vlrft.engines.fake import FakeEngine
from vlrft.models.base import PromptError
from vlrft.records import group_from_record, read_records, rollout_file, write_groups
from vlrft.renderer import Renderer
from vlrft.rollout import evaluation_judge, training_judge
from vlrft.types import MediaRef, Sample, TextPart


def test_prompts_are_rendered_once(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stage()
    rendered: list[str] = []
    original = Renderer._render

    def spy(self: Renderer, sample: Any) -> Any:
        rendered.append(sample.id)
        return original(self, sample)

    monkeypatch.setattr(Renderer, "_render", spy)
    for _ in range(3):
        training.grpo_step(run)
        run.state.step += 1
    assert len(rendered) == len(set(rendered)) == 12


def test_equal_ids_of_two_splits_are_two_prompts(stage: Any, tmp_path: Path) -> None:
    renderer = stage().worker.renderer
    sample = stage().setup.samples[0]
    Image.new("RGB", (56, 84)).save(tmp_path / "other.png")
    other = replace(sample, media=(MediaRef(path=str(tmp_path / "other.png")),))
    assert renderer.prompt(sample).image_sizes == ((56, 56),)
    assert renderer.prompt(other).image_sizes == ((56, 84),)
    assert renderer.prompt(sample).image_sizes == ((56, 56),)


def test_the_prompt_cache_is_bounded(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stage()
    monkeypatch.setattr("vlrft.renderer.PROMPT_CACHE_BYTES", 1)
    for sample in run.setup.samples:
        run.worker.renderer.prompt(sample)
    assert len(run.worker.renderer._cache) == 1
    rendered, _ = run.worker.renderer.usable(run.setup.samples)
    assert [prompt.sample_id for _, prompt in rendered] == [sample.id for sample in run.setup.samples]


def test_length_and_sizes_from_the_header_equal_the_rendered_ones(stage: Any) -> None:
    run = stage(data={"resize": [84, 56]})
    renderer = run.worker.renderer
    for sample in run.setup.samples:
        prompt = renderer.prompt(sample)
        assert renderer.check(sample) == renderer.judge_meta(sample, prompt)
        assert prompt.input_sizes == ((84, 56),)
        assert prompt.image_sizes == ((56, 56),)
    length = len(renderer.prompt(run.setup.samples[0]).token_ids)
    tight = Renderer(renderer.family, renderer.data.model_copy(update={"max_prompt_length": length - 1}))
    with pytest.raises(PromptError, match=rf"prompt has {length} tokens, data\.max_prompt_length is {length - 1}"):
        tight.check(run.setup.samples[0])
    with pytest.raises(PromptError, match=r"media are never cut"):
        tight.prompt(run.setup.samples[0])


def test_tokens_depend_on_seed_step_and_row_only(stage: Any) -> None:
    run = stage()
    rendered, _ = pipeline.render(run, pipeline.first_draw(run))

    def tokens(pairs: Any, key: tuple[object, ...]) -> dict[str, list[tuple[int, ...]]]:
        groups = run.worker.rollout(pairs, run.config, key).groups
        return {g.sample.id: [r.completion.token_ids for r in g.rollouts] for g in groups}

    together = tokens(rendered, (0, "grpo", 0))
    alone = tokens(rendered[2:3], (0, "grpo", 0))
    assert together[rendered[2][0].id] == alone[rendered[2][0].id]
    assert all(len(set(rows)) > 1 for rows in together.values()), "rows of a group differ"
    assert tokens(rendered, (0, "grpo", 1)) != together


def test_groups_survive_the_disk_bit_by_bit(stage: Any) -> None:
    run = stage()
    scored = pipeline.collect(run, pipeline.first_draw(run), pipeline.render(run, pipeline.first_draw(run))[0])
    groups = run.objective.assign(scored.groups).kept
    path = rollout_file(run.folder.path, "grpo", 7)
    write_groups(path, groups, stage="grpo", step=7, judges=[{"errors": 2}])
    records = list(read_records(path))
    assert [r.get("judges") for r in records] == [[{"errors": 2}], *[None] * (len(groups) - 1)]
    assert [p.name for p in path.parent.iterdir()] == ["grpo-000007.jsonl"]
    for record, group in zip(records, groups, strict=True):
        again = group_from_record(record, group.sample, group.prompt)
        assert again.rollouts == group.rollouts
        assert record["rollouts"][0]["advantage"] == (group.advantages or ())[0]
    with pytest.raises(ValueError, match="the stored rollout is of sample"):
        group_from_record(records[0], groups[1].sample, groups[1].prompt)


def test_images_given_as_bytes_are_kept_for_the_report(stage: Any, tmp_path: Path) -> None:
    run = stage()
    scored = pipeline.collect(run, pipeline.first_draw(run), pipeline.render(run, pipeline.first_draw(run))[0])
    group = scored.groups[0]
    encoded = Path(group.sample.media[0].path or "").read_bytes()
    group = replace(group, sample=replace(group.sample, media=(MediaRef(data=encoded),)))
    path = rollout_file(tmp_path, "grpo", 1)
    write_groups(path, [group, group], stage="grpo", step=1)
    names = [record["images"] for record in read_records(path)]
    assert names[0] == names[1]
    assert (tmp_path / names[0][0]).read_bytes() == encoded


def test_scripted_completions_go_through_the_whole_step(stage: Any) -> None:
    """Right boxes score 1, wrong ones less, and the truncated ones are seen as such."""
    run = stage(rewards={"funcs": [{"func": "box.iou"}]}, engine={"num_generations": 3, "max_completion_length": 12})
    truth = {s.id: s.target for s in run.setup.samples}

    def script(request: Any, row: int) -> str:
        box = truth[request.prompt.sample_id]
        return [" ".join(f"{int(x)}" for x in box), "0 0 1 1", "no idea, sorry"][row]

    run.worker.engine = FakeEngine(run.worker.renderer.family, script)
    row = training.grpo_step(run)
    assert row["reward/mean"] == pytest.approx(1 / 3, abs=0.01)
    assert row["completions/truncated_share"] == pytest.approx(1 / 3)
    assert row["flags/unparsable"] == 4
    assert row["optimizer_steps"] == 1


def test_lenient_extraction_is_for_training_only(recipe: Any) -> None:
    bare = "it is at [0, 0, 10, 10]"
    sample = Sample(id="a", task="grounding", parts=(TextPart(text="where"),), target=[0, 0, 10, 10])
    blocks = {"data": {"output_mode": "think"}, "rewards": {"funcs": [{"func": "box.iou"}], "lenient_extraction": True}}
    config = compose(recipe(**blocks)).config
    trained, evaluated = (judge(config).score(bare, sample) for judge in (training_judge, evaluation_judge))
    assert (trained.parts["box.iou"], trained.flags) == (1.0, ("lenient",))
    assert (evaluated.parts["box.iou"], evaluated.flags) == (0.0, ("no_answer",))
