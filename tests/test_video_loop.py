"""Video and several images through the whole loop: rendered once, the same frames for engine and trainer, steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from videos import SIZE, number_of, picture, shared_clip, write_video

from vlrft import pipeline, training
from vlrft import renderer as rendering
from vlrft.compose import compose, stage_configs
from vlrft.config import DataConfig, ModelConfig, TinyModelConfig
from vlrft.data.media import MediaError
from vlrft.data.samplers import SequentialSampler
from vlrft.engines.base import Request, SamplingParams, row_seed
from vlrft.engines.hf import HFEngine
from vlrft.eval.run import evaluate_samples
from vlrft.models import load_family
from vlrft.models.base import Family, PromptError, media_digest
from vlrft.pack import Batch, count, on_device, pack
from vlrft.policy import HeadOptions, Policy
from vlrft.records import read_records, rollout_file
from vlrft.renderer import Renderer
from vlrft.types import Clip, Group, MediaPart, MediaRef, Prompt, Rollout, Sample, Score, TextPart

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"]
TILE = 112 * 112


def tiny(name: str) -> TinyModelConfig:
    return TinyModelConfig(family=name, hidden_size=64, num_layers=2, intermediate_size=96, vision_hidden_size=32,
                           vision_layers=2, vision_intermediate_size=64, number_tokens=60)  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return load_family(ModelConfig(tiny=tiny(request.param)), DataConfig())


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, MediaRef]:
    """Ten frames a second, each showing its number; the same as loose frames; two images."""
    pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("media")
    frames = []
    for number in range(6):
        frames.append(str(folder / f"{number:03d}.png"))
        Image.fromarray(picture(number)).save(frames[-1])
    Image.new("RGB", (90, 60), "red").save(folder / "red.png")
    Image.new("RGB", (56, 84), "blue").save(folder / "blue.png")
    video = str(write_video(folder / "numbers.mp4", 40))
    return {
        "video": MediaRef(kind="video", path=video),
        "clip": MediaRef(kind="video", path=video, start=1.0, end=2.5),
        "frames": MediaRef(kind="video", frames=tuple(frames), fps=3.0),
        "red": MediaRef(path=str(folder / "red.png")),
        "blue": MediaRef(path=str(folder / "blue.png")),
    }


def sample(name: str, refs: list[MediaRef], **changes: Any) -> Sample:
    parts = (*(MediaPart(index=i) for i in range(len(refs))), TextPart(text="the red square"))
    made = Sample(id=name, task="grounding", parts=parts, media=tuple(refs), target=[8.0, 8.0, 40.0, 40.0])
    return replace(made, **changes)


def samples(media: dict[str, MediaRef]) -> dict[str, Sample]:
    asked = {"a video": ["video"], "several images": ["red", "blue"], "an image and videos": ["red", "clip", "frames"]}
    return {name: sample(name, [media[key] for key in keys]) for name, keys in asked.items()}


def renderer_of(family: Family, **data: Any) -> Renderer:
    return Renderer(family, DataConfig(**{"task": "grounding", "video": {"num_frames": 4}, **data}))


class Seen:
    """What a model's embedding and vision tower are given while a block runs."""

    def __init__(self, family: Family) -> None:
        self.ids: list[torch.Tensor] = []
        self.pixels: list[torch.Tensor] = []
        self.grids: list[torch.Tensor] = []
        inner: Any = family.model.model
        tower = inner.visual if hasattr(inner, "visual") else inner.vision_tower
        self.hooks = [
            inner.get_input_embeddings().register_forward_pre_hook(lambda _, args: self.ids.append(args[0].clone())),
            tower.register_forward_pre_hook(self._look, with_kwargs=True),
        ]

    def _look(self, _: Any, args: Any, kwargs: Any) -> None:
        self.pixels.append((args[0] if args else kwargs["pixel_values"]).clone())
        if "grid_thw" in kwargs:
            self.grids.append(kwargs["grid_thw"].clone())

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def digests(self, prompts: list[Prompt], num_frames: int) -> list[str]:
        """Of every item, as `media_digest` makes them of a prompt's own tensors; images before videos for Qwen-VL."""
        [pixels] = self.pixels
        if self.grids:
            [grids] = self.grids
            parts = pixels.split(grids.prod(-1).tolist())
            return [media_digest(part, grid) for part, grid in zip(parts, grids, strict=True)]
        tiles = [
            num_frames if seconds is not None else _tiles(w * h // TILE)
            for p in prompts
            for (w, h), seconds in zip(p.input_sizes, p.durations, strict=True)
        ]
        return [media_digest(part) for part in pixels.split(tiles)]


def _tiles(cut: int) -> int:
    return cut + 1 if cut > 1 else cut


def test_headers_say_what_rendering_finds(family: Family, media: dict[str, MediaRef]) -> None:
    renderer = renderer_of(family)
    for one in samples(media).values():
        prompt = renderer.prompt(one)
        assert renderer.check(one) == renderer.judge_meta(one, prompt)
        assert len(prompt.media_digests) == len(one.media)
        exact = renderer_of(family, max_prompt_length=len(prompt.token_ids))
        exact.check(one)
        exact.prompt(one)
        tight = renderer_of(family, max_prompt_length=len(prompt.token_ids) - 1)
        for read in (tight.check, tight.prompt):
            with pytest.raises(PromptError, match=r"data\.max_pixels, of videos data\.video\.max_frames"):
                read(one)


def test_rewards_are_told_size_and_length_of_the_video(media: dict[str, MediaRef]) -> None:
    renderer = renderer_of(load_family(ModelConfig(tiny=tiny("qwen2_5_vl")), DataConfig()))
    whole, clip = (sample(key, [media[key]]) for key in ("video", "clip"))
    meta = renderer.check(whole)
    assert (meta["image_size"], meta["input_size"]) == (list(SIZE), [140, 56])
    assert meta["duration"] == pytest.approx(4.0)
    assert renderer.check(clip)["duration"] == pytest.approx(1.5)
    assert renderer.check(sample("frames", [media["frames"]]))["duration"] == pytest.approx(2.0)
    stated = replace(whole, meta={"duration": 3.2})
    assert "duration" not in renderer.check(stated), "the row's own stays"
    assert "duration" not in renderer.judge_meta(stated, renderer.prompt(stated))
    assert "duration" not in renderer.check(sample("image", [media["red"]]))
    both = renderer.check(sample("both", [media["red"], media["video"]]))
    assert (both["image_size"], both["duration"]) == ([90, 60], pytest.approx(4.0))


@pytest.mark.parametrize("key", ["video", "clip", "frames"])
def test_the_frames_of_a_sample_are_the_ones_that_are_shown(
    family: Family, media: dict[str, MediaRef], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    original = type(family).render
    monkeypatch.setattr(
        type(family),
        "render",
        lambda self, name, parts, given: shown.extend(given) or original(self, name, parts, given),
    )
    renderer_of(family).prompt(sample(key, [media[key]]))
    [clip] = shown
    assert isinstance(clip, Clip)
    expected = {"video": [0, 13, 26, 39], "clip": [10, 15, 20, 25], "frames": [0, 2, 3, 5]}[key]
    assert [number_of(frame) for frame in clip.frames] == expected
    assert clip.frames.shape[2:0:-1] == family.video_input_size(SIZE, 4)
    rate, start = (3.0, 0) if key == "frames" else (10.0, expected[0])
    assert clip.timestamps == pytest.approx([(number - start) / rate for number in expected], abs=1e-3)


@pytest.mark.parametrize("which", ["a video", "several images", "an image and videos", "all together"])
def test_engine_and_trainer_see_the_same(family: Family, media: dict[str, MediaRef], which: str) -> None:
    chosen = list(samples(media).values()) if which == "all together" else [samples(media)[which]]
    assert_same(family, [renderer_of(family).prompt(one) for one in chosen], num_frames=4)


@pytest.mark.parametrize("name", ["clip.mp4", "flipping_a_pancake.mkv"])
def test_engine_and_trainer_see_the_same_of_a_real_clip(family: Family, name: str) -> None:
    pytest.importorskip("av")
    ref = MediaRef(kind="video", path=str(shared_clip(name)))
    renderer = renderer_of(family, video={"num_frames": 6, "max_pixels": 56 * 56})
    assert_same(family, [renderer.prompt(sample(name, [ref]))], num_frames=6)


def assert_same(family: Family, prompts: list[Prompt], num_frames: int) -> None:
    """Digests, prompt ids and log-probs of the in-process engine and of the packed training forward."""
    requests = [Request(prompt=p, seeds=tuple(row_seed(p.sample_id, row) for row in range(3))) for p in prompts]
    with Seen(family) as in_engine:
        done = HFEngine(family).generate(requests, SamplingParams(max_tokens=8))
    groups = [group_of(p, completions) for p, completions in zip(prompts, done, strict=True)]
    [batch] = pack(groups, family.collate_media, token_budget=10**6, aggregation="token_sum",
                   max_completion_length=8, counts=count(groups))  # fmt: skip
    with Seen(family) as in_trainer, torch.no_grad():
        logp = Policy(family, HeadOptions(banned_ids=family.banned_ids))(**batch.inputs, layout=batch.layout)["logp"]
    expected = sorted(digest for p in prompts for digest in p.media_digests)
    assert len(expected) == sum(len(p.input_sizes) for p in prompts)
    assert sorted(in_engine.digests(prompts, num_frames)) == expected
    assert in_trainer.digests(prompts, num_frames) == in_engine.digests(prompts, num_frames)
    spans = [in_trainer.ids[0][0, start : start + length].tolist() for start, length in batch.layout.prompts]
    assert spans == [list(p.token_ids) for p in prompts]
    assert in_engine.ids[0][0].tolist() == [token for p in prompts for token in p.token_ids]
    torch.testing.assert_close(logp, batch.behaviour_logp_N, atol=1e-5, rtol=0)


def group_of(prompt: Prompt, completions: Any) -> Group:
    rollouts = tuple(Rollout(completion=c, score=Score(value=0.0), reward=float(i)) for i, c in enumerate(completions))
    return Group(sample=sample(prompt.sample_id, []), prompt=prompt, rollouts=rollouts)


def storages(batches: list[Batch]) -> set[int]:
    names = {"input_ids", "position_ids", "predict_at", "targets"}
    return {value.data_ptr() for batch in batches for key, value in batch.inputs.items() if key not in names}


@pytest.mark.parametrize("rows", [2, 24])
def test_one_handle_per_prompt_whatever_the_number_of_rollouts(
    family: Family, media: dict[str, MediaRef], rows: int
) -> None:
    """A group far over the token budget is split, and every piece holds the prompt's own media tensors."""
    prompt = renderer_of(family).prompt(samples(media)["a video"])
    request = Request(prompt=prompt, seeds=tuple(range(rows)))
    [done] = HFEngine(family).generate([request], SamplingParams(max_tokens=6, ignore_eos=True))
    group = group_of(prompt, done)
    assert group.prompt is prompt
    batches = pack([group], family.collate_media, token_budget=len(prompt.token_ids) + 12, aggregation="token_sum",
                   max_completion_length=6, counts=count([group]))  # fmt: skip
    assert len(batches) == rows // 2
    assert all(batch.has_media for batch in batches)
    assert storages(batches) == {value.data_ptr() for value in prompt.mm.values()}
    moved = on_device(batches, torch.device("meta"))
    names = batches[0].inputs.keys() & prompt.mm.keys()
    assert {len({id(batch.inputs[name]) for batch in moved}) for name in names} == {1}, "moved once"


def test_a_video_is_decoded_once_for_all_steps(
    stage: Any, media: dict[str, MediaRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stage(model={"tiny": tiny("qwen2_5_vl").model_dump()}, data={"video": {"num_frames": 4}},
                engine={"num_generations": 6}, train={"prompts_per_step": 2})  # fmt: skip
    use(run, [sample("a", [media["video"]]), sample("b", [media["clip"]])])
    decoded: list[str] = []
    original = rendering.submit_clip
    monkeypatch.setattr(rendering, "submit_clip", lambda ref, *rest: decoded.append(ref.name()) or original(ref, *rest))
    for _ in range(3):
        training.grpo_step(run)
        run.state.step += 1
    evaluate_samples(run.state.sampler.samples, run.config, run.worker.renderer, run.worker.engine)
    assert len(decoded) == 2


def use(run: Any, chosen: list[Sample]) -> None:
    run.state.sampler = SequentialSampler(chosen)


def mixed(media: dict[str, MediaRef]) -> Iterator[Sample]:
    yield sample("text", [], target_space="norm_1")
    yield sample("image", [media["red"]])
    yield from samples(media).values()


@pytest.mark.parametrize("name", FAMILIES)
def test_grpo_and_evaluation_on_mixed_batches(
    stage: Any, media: dict[str, MediaRef], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stage(model={"tiny": tiny(name).model_dump()}, data={"video": {"num_frames": 4}},
                train={"prompts_per_step": 5, "micro_batch_tokens": 10_000})  # fmt: skip
    use(run, list(mixed(media)))
    before = {key: p.detach().clone() for key, p in run.worker.renderer.family.model.named_parameters()}
    row = training.grpo_step(run)
    assert row["optimizer_steps"] == 1
    assert row["policy/engine_gap"] < 1e-5
    assert row["loss"] == pytest.approx(row["loss"])
    family = run.worker.renderer.family
    moved = {family.part_of(key) for key, p in family.model.named_parameters() if not torch.equal(p, before[key])}
    assert moved == {"vision_tower", "projector", "language_model"}
    results = evaluate_samples(list(mixed(media))[1:], run.config, run.worker.renderer, run.worker.engine)
    assert len(results.groups) == 4
    assert not results.skipped
    records = {r["sample_id"]: r for r in read_records(rollout_file(run.folder.path, "grpo", 1))}
    kept = records["an image and videos"]
    assert len(kept["media_digests"]) == len(kept["image_sizes"]) == 3
    assert [Path(path).name for path in kept["images"]] == ["red.png"]
    assert [Path(path).name.split(" ")[0] for path in kept["videos"]] == ["numbers.mp4", "000.png"]
    json.dumps(kept)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_without_media_among_batches_with(stage: Any, media: dict[str, MediaRef], name: str) -> None:
    """Micro-batches of one prompt each: the tower runs for those with media only, and every one of them learns."""
    run = stage(model={"tiny": tiny(name).model_dump()}, data={"video": {"num_frames": 4}},
                train={"prompts_per_step": 5, "micro_batch_tokens": 1})  # fmt: skip
    use(run, list(mixed(media)))
    rendered, _ = pipeline.render(run, pipeline.first_draw(run))
    groups = run.objective.assign(pipeline.collect(run, pipeline.first_draw(run), rendered).groups).kept
    batches = training.pack_step(run, training.Minibatch(groups=tuple(groups)))
    for batch in batches:
        assert batch.has_media == bool(batch.groups[0].prompt.mm)
        with Seen(run.worker.renderer.family) as seen:
            run.state.policy(**batch.inputs, layout=batch.layout)
        assert len(seen.pixels) == batch.has_media
    assert {batch.has_media for batch in batches} == {True, False}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.slow
def test_sft_on_video_prompts_learns_the_answers(stage: Any, media: dict[str, MediaRef], name: str) -> None:
    run = stage(model={"tiny": tiny(name).model_dump()}, data={"video": {"num_frames": 4}},
                stages=[{"kind": "sft"}], train={"prompts_per_step": 4, "learning_rate": 3e-3})  # fmt: skip
    use(run, list(mixed(media))[1:])
    losses = []
    for _ in range(6):
        losses.append(training.sft_step(run)["loss"])
        run.state.step += 1
    assert losses[-1] < losses[0] - 0.5


def test_an_unreadable_video_costs_one_sample(stage: Any, media: dict[str, MediaRef], tmp_path: Path) -> None:
    whole = Path(media["video"].path or "").read_bytes()
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(whole[: len(whole) // 2])
    bad, good = sample("bad", [MediaRef(kind="video", path=str(damaged))]), sample("good", [media["video"]])
    run = stage(data={"on_bad_sample": "skip", "video": {"num_frames": 4}})
    rendered, skipped = run.worker.renderer.usable([bad, good])
    assert [one.id for one, _ in rendered] == ["good"]
    assert [item.where for item in skipped] == ["sample bad"]
    with pytest.raises(MediaError, match=r"damaged\.mp4"):
        run.worker.renderer.check(bad)


def test_a_frame_that_is_too_thin_names_the_sample(media: dict[str, MediaRef], tmp_path: Path) -> None:
    Image.new("RGB", (3000, 8)).save(tmp_path / "thin.png")
    thin = sample("thin", [MediaRef(kind="video", frames=(str(tmp_path / "thin.png"),) * 2, fps=1.0)])
    renderer = renderer_of(load_family(ModelConfig(tiny=tiny("qwen3_vl")), DataConfig()))
    for read in (renderer.check, renderer.prompt):
        with pytest.raises(PromptError, match=r"sample 'thin': .*thin\.png.*aspect ratio"):
            read(thin)


def test_video_budgets_are_one_for_the_run_and_rates_are_not(recipe: Any) -> None:
    from vlrft.compose import ConfigError
    from vlrft.setup import check_config

    def check(**video: Any) -> None:
        stages = [{"kind": "sft"}, {"kind": "grpo", "data": {"video": video}}]
        composed = compose(recipe(stages=stages))
        check_config(composed.config, stage_configs(composed.config))

    check(fps=1.0, max_frames=8)
    with pytest.raises(ConfigError, match=r"sets data\.video, which is one for the whole run"):
        check(max_pixels=100_000)


@pytest.mark.slow
def test_a_whole_run_on_video_rows(recipe: Any, media: dict[str, MediaRef], tmp_path: Path) -> None:
    """Native rows with videos, through the checks, both stages, evaluation, checkpoint and report."""
    import vlrft

    video = media["video"].path
    rows = [
        {"id": f"r{i}", "prompt": f"Event {i}?", "videos": [{"path": video, "start": i * 0.5, "end": i * 0.5 + 2.0}],
         "answer": [0.2, 0.9], "task": "temporal_grounding"}
        for i in range(3)
    ]  # fmt: skip
    rows.append({"id": "frames", "prompt": "When?", "videos": [{"frames": list(media["frames"].frames), "fps": 3.0}],
                 "answer": [0.0, 1.0], "task": "temporal_grounding"})  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"format": "native", "path": str(tmp_path / "rows.jsonl")}
    run = vlrft.train(recipe(
        data={"task": "temporal_grounding", "train": source, "eval": source, "video": {"num_frames": 4},
              "prompt_template": None},
        rewards={"funcs": [{"func": "tg.iou"}, {"func": "vlrft.testing:even_share"}]},
        eval={"metrics": ["tg.iou"]}, stages=[{"kind": "sft"}, {"kind": "grpo"}], train={"steps": 2},
        log={"report": True},
    ))  # fmt: skip
    metrics = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in metrics if row["kind"] == "train"]
    assert [row["stage"] for row in trained] == ["sft", "sft", "grpo", "grpo"]
    assert all(row["samples/left_out"] == 0 for row in trained)
    assert (run.path / "report.html").stat().st_size > 10_000
    records = list(read_records(rollout_file(run.path, "grpo", 1)))
    assert all(len(record["media_digests"]) == 1 for record in records)
    evaluated = [row for row in metrics if row["kind"] == "eval"]
    assert len(evaluated) == 3
    assert all("tg.iou" in str(row) for row in evaluated), evaluated
