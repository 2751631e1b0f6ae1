"""Media inside a run: every form of an image, videos decoded ahead and side by side, unreadable files quarantined."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from videos import write_video

import vlrft
from vlrft import renderer as rendering
from vlrft import splits, training
from vlrft.compose import compose, stage_configs
from vlrft.config import VideoConfig
from vlrft.data import media as data_media
from vlrft.data.media import MediaError, check_media, left_out
from vlrft.data.mixture import MixtureSampler
from vlrft.data.quarantine import BadMedia, QuarantineFile
from vlrft.data.samplers import Sampler, SequentialSampler, ShuffleSampler
from vlrft.data.tasks import build_task
from vlrft.data.video import ClipRequest, close_pools, submit_clip
from vlrft.eval.run import evaluate_samples
from vlrft.models.base import PromptError
from vlrft.records import read_records, rollout_file
from vlrft.stage import StageRun
from vlrft.types import Clip, MediaPart, MediaRef, Sample, TextPart

pytest.importorskip("av", reason="PyAV is not installed (it comes with the extra `video`)")


def sample(name: str, *refs: MediaRef) -> Sample:
    parts = (*(MediaPart(index=i) for i in range(len(refs))), TextPart(text="the red square"))
    return Sample(id=name, task="grounding", parts=parts, media=refs, target=[8.0, 8.0, 40.0, 40.0])


def video(path: Path, **changes: Any) -> MediaRef:
    return replace(MediaRef(kind="video", path=str(path)), **changes)


def damage(path: Path) -> Path:
    """A copy whose header is whole and whose pictures are not."""
    content = bytearray(path.read_bytes())
    start = content.find(b"mdat") + 4
    assert start > 3
    end = min(len(content), start + int.from_bytes(content[start - 8 : start - 4]) - 8)
    content[start:end] = bytes(255 - i % 7 for i in range(end - start))
    bad = path.with_name(f"damaged-{path.name}")
    bad.write_bytes(content)
    return bad


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    return [write_video(tmp_path / f"{i}.mp4", 20, first=i) for i in range(6)]


@pytest.fixture
def video_run(stage: Any, clips: list[Path]) -> Any:
    """`video_run(samples, **blocks)`: a stage whose sampler goes through these samples in order."""

    def make(samples: list[Sample], **blocks: Any) -> StageRun:
        data = {"video": {"num_frames": 4}, "on_bad_sample": "skip", **blocks.pop("data", {})}
        train = {"prompts_per_step": 2, "steps": 4, **blocks.pop("train", {})}
        run: StageRun = stage(data=data, train=train, **blocks)
        run.state.sampler = SequentialSampler(samples)
        return run

    return make


class Submitted:
    """Stands in for `submit_clip`: notes the videos and, by `answers`, when they were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.futures: list[Future[Clip]] = []
        monkeypatch.setattr(rendering, "submit_clip", self)

    def __call__(self, ref: MediaRef, *rest: Any) -> Future[Clip]:
        self.names.append(Path(ref.name()).stem)
        self.futures.append(submit_clip(ref, *rest))
        return self.futures[-1]


@pytest.mark.slow
def test_every_form_of_an_image_in_a_row(tmp_path: Path, stage: Any) -> None:
    image = Image.effect_noise((64, 48), 80).convert("RGB")
    path, buffer = tmp_path / "i.png", io.BytesIO()
    image.save(path)
    image.save(buffer, "PNG")
    encoded = buffer.getvalue()
    uri = "data:image/png;base64," + base64.b64encode(encoded).decode()
    forms = [str(path), uri, encoded, image, {"path": str(path)}, {"bytes": encoded, "path": None}]
    row = {"id": "r", "prompt": "the square", "boxes": {"box": [1, 2, 30, 40]}}
    made = [build_task("grounding").to_sample({**row, "images": [form]}, where="rows:1") for form in forms]
    assert {tuple(s.meta["image_size"]) for s in made} == {(64, 48)}
    prompts = [stage().worker.renderer.prompt(one) for one in made]
    assert len({prompt.media_digests for prompt in prompts}) == 1
    with pytest.raises(MediaError, match="rows:1: <9 bytes of image>: is not an image") as caught:
        build_task("grounding").to_sample({**row, "images": [b"no image!"]}, where="rows:1")
    assert caught.value.medium == "<9 bytes of image>"


def samplers(samples: list[Sample]) -> list[Sampler]:
    named = [replace(s, id=f"{'a' if i % 3 else 'b'}/{s.id}") for i, s in enumerate(samples)]
    return [
        SequentialSampler(samples),
        ShuffleSampler(samples, seed=3),
        MixtureSampler(named, seed=3, weights={"a": 1.0, "b": 4.0}),
    ]


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("n", [1, 3, 7, 50])
def test_looking_ahead_moves_nothing(which: int, n: int) -> None:
    samples = [sample(f"s{i}") for i in range(7)]
    plain: Any = samplers(samples)[which]
    looked: Any = samplers(samples)[which]
    for step in range(12):
        before = looked.state_dict()
        ahead = [s.id for s in looked.peek(step, n)]
        assert [s.id for s in looked.peek(step, n)] == ahead
        assert looked.state_dict() == before
        drawn = [s.id for s in looked.propose(step, n)]
        assert drawn == ahead
        assert drawn == [s.id for s in plain.propose(step, n)]
        assert looked.state_dict() == plain.state_dict()


def test_the_next_step_is_decoded_while_this_one_generates(
    video_run: Any, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = video_run([sample(f"s{i}", video(path)) for i, path in enumerate(clips)])
    submitted = Submitted(monkeypatch)
    asked: list[list[str]] = []
    generate = run.worker.engine.generate
    monkeypatch.setattr(
        run.worker.engine, "generate", lambda *args: asked.append(list(submitted.names)) or generate(*args)
    )
    for _ in range(4):
        training.grpo_step(run)
        run.state.step += 1
    assert asked == [list("0123"), list("012345"), list("012345"), list("012345")], "each once, a step ahead"
    assert run.worker.renderer._asked == {}, "nothing is fetched for a step after the last"


def test_hints_that_did_not_come_true_are_let_go(video_run: Any, clips: list[Path]) -> None:
    samples = [sample(f"s{i}", video(path)) for i, path in enumerate(clips)]
    renderer = video_run(samples).worker.renderer
    renderer.prepare(samples[:3])
    renderer.prepare(samples[2:4])
    assert [held.sample.id for held in renderer._asked.values()] == ["s2", "s3"]
    rendered, _ = renderer.usable([samples[0], samples[3]])
    assert [one.id for one, _ in rendered] == ["s0", "s3"]
    assert [held.sample.id for held in renderer._asked.values()] == ["s2"]
    renderer.prepare([])
    assert not renderer._asked


@pytest.mark.slow
def test_nothing_depends_on_looking_ahead(video_run: Any, clips: list[Path]) -> None:
    """A run that never looks ahead has the same rollouts and weights."""
    samples = [sample(f"s{i}", video(path)) for i, path in enumerate(clips)]
    found = []
    for sampler in (SequentialSampler(samples), Blind(samples)):
        run = video_run(samples)
        run.state.sampler = sampler
        (run.folder.path / "rollouts").mkdir(exist_ok=True)
        rewards = []
        for _ in range(4):
            rewards.append(training.grpo_step(run)["reward/mean"])
            path = rollout_file(run.folder.path, "grpo", run.state.step + 1)
            rewards.append([record["rollouts"] for record in read_records(path)])
            path.unlink()
            run.state.step += 1
        found.append((rewards, [p.double().sum().item() for p in run.state.policy.parameters()]))
    assert found[0] == found[1]


class Blind:
    """A sampler without `peek`, as one of the user's may be."""

    def __init__(self, samples: list[Sample]) -> None:
        self._inner = SequentialSampler(samples)

    def __getattr__(self, name: str) -> Any:
        if name == "peek":
            raise AttributeError(name)
        return getattr(self._inner, name)


def test_the_videos_of_a_batch_are_decoded_side_by_side(
    video_run: Any, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [sample("both", video(clips[0]), video(clips[1])), sample("one", video(clips[2])), sample("text")]
    renderer = video_run(samples[:2]).worker.renderer
    submitted = Submitted(monkeypatch)
    before_first: list[int] = []
    prompt = renderer.prompt
    monkeypatch.setattr(renderer, "prompt", lambda one: before_first.append(len(submitted.names)) or prompt(one))
    renderer.usable(samples[:2])
    assert before_first == [3, 3]
    renderer.usable(samples[:2])
    assert len(submitted.names) == 3, "rendered prompts are kept"


def test_evaluation_decodes_its_next_batch_ahead(
    video_run: Any, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [sample(f"s{i}", video(path)) for i, path in enumerate(clips[:5])]
    run = video_run(samples, eval={"prompts_per_batch": 2})
    submitted = Submitted(monkeypatch)
    asked: list[int] = []
    generate = run.worker.engine.generate
    monkeypatch.setattr(
        run.worker.engine, "generate", lambda *args: asked.append(len(submitted.names)) or generate(*args)
    )
    results = evaluate_samples(samples, run.config, run.worker.renderer, run.worker.engine)
    assert asked == [4, 5, 5]
    assert len(results.groups) == 5


def test_a_damaged_video_whose_turn_comes_is_quarantined(
    video_run: Any, clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, gone = damage(clips[0]), video(tmp_path / "gone.mp4")
    with pytest.raises(MediaError):
        submit_clip(video(bad), (0.0, 1.0), (56, 56), VideoConfig()).result()
    samples = [sample("good", video(clips[1])), sample("bad", video(bad)), sample("worse", video(bad)),
               sample("gone", gone)]  # fmt: skip
    run = video_run(samples)
    submitted = Submitted(monkeypatch)
    first, second = training.grpo_step(run), training.grpo_step(run)
    assert (first["samples/left_out"], second["samples/left_out"]) == (1, 2)
    assert first["optimizer_steps"] == 1
    assert second["optimizer_steps"] == 0, "a whole batch may be unreadable"
    assert training.sft_step(run)["samples/left_out"] == 1
    assert sorted(submitted.names) == ["1", "damaged-0", "damaged-0"], "what failed once is not tried again"
    listed = [json.loads(line) for line in (run.folder.path / "skipped.jsonl").read_text().splitlines()]
    assert [row["where"] for row in listed] == ["sample bad", "sample worse", "sample gone"]
    entries = QuarantineFile(run.folder.path / "quarantine.jsonl").entries()
    assert [(Path(e.media).name, e.sample, e.decoder) for e in entries] == [
        ("damaged-0.mp4", "bad", "pyav"),
        ("gone.mp4", "gone", "pyav"),
    ]
    assert not any(e.reason.startswith(e.media) for e in entries)
    run.worker.renderer.data = run.config.data.model_copy(update={"on_bad_sample": "error"})
    with pytest.raises(MediaError, match=r"damaged-0\.mp4"):
        training.grpo_step(run)


@pytest.mark.slow
def test_a_run_lists_what_it_found_at_its_checks(recipe: Any, clips: list[Path], tmp_path: Path) -> None:
    """One video without a header, one that only decoding shows to be damaged, one image: the run goes on."""
    bad, headless, cut = damage(clips[0]), tmp_path / "headless.mp4", tmp_path / "cut.png"
    headless.write_bytes(b"<html>404</html>")
    Image.effect_noise((56, 56), 90).convert("RGB").save(cut)
    cut.write_bytes(cut.read_bytes()[:700])
    Image.new("RGB", (56, 56)).save(tmp_path / "good.png")
    media: list[dict[str, Any]] = [{"videos": [str(path)]} for path in (bad, headless, clips[1])]
    media += [{"images": [str(path)]} for path in (cut, tmp_path / "good.png")]
    rows = [{"id": f"r{i}", "prompt": f"What? {i}", "answer": "a cat", **fields} for i, fields in enumerate(media)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "task": "open_qa", "prompt_template": None, "on_bad_sample": "skip", "video": {"num_frames": 4}, "eval": None,
        "train": {"format": "native", "path": str(tmp_path / "rows.jsonl")},
    }  # fmt: skip
    found = {}
    for decoded in (0, 9):
        train = {"output_dir": str(tmp_path / f"checked-{decoded}")}
        run = vlrft.train(recipe(data={**data, "check_videos": decoded}, train=train))
        entries = QuarantineFile(run.path / "quarantine.jsonl").entries()
        found[decoded] = {Path(e.media).name: (e.sample, e.decoder) for e in entries}
        metrics = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
        left_out = [row["samples/left_out"] for row in metrics if row["kind"] == "train"]
        assert (sum(left_out) > 0) == (decoded == 0)
    assert found[0] == found[9]
    assert found[0]["damaged-0.mp4"] == ("r0", "pyav")
    assert found[0]["cut.png"] == ("r3", None)
    assert found[0]["headless.mp4"][0].endswith("rows.jsonl:2")


def test_a_refused_run_leaves_no_quarantine(recipe: Any, clips: list[Path], tmp_path: Path) -> None:
    rows = [{"id": "r0", "prompt": "What?", "answer": "a cat", "videos": [str(damage(clips[0]))]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"task": "open_qa", "prompt_template": None, "video": {"num_frames": 4}, "eval": None, "check_videos": 5,
            "train": {"format": "native", "path": str(tmp_path / "rows.jsonl")}}  # fmt: skip
    with pytest.raises(Exception, match=r"sample r0: .*damaged-0\.mp4"):
        vlrft.train(recipe(data=data))
    assert not (tmp_path / "run").exists()


class Counting:
    """A pool that answers when it is asked for a result, and notes how many requests were waiting then."""

    def __init__(self) -> None:
        self.waiting = 0
        self.most = 0

    def submit(self, request: ClipRequest) -> Any:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        return self

    def result(self) -> None:
        self.waiting -= 1


def test_the_check_keeps_all_workers_busy(recipe: Any, clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [sample(f"s{i}", video(path)) for i, path in enumerate(clips)]
    pool = Counting()
    monkeypatch.setattr(data_media, "shared_pool", lambda config: pool)
    assert check_media(samples, decode=True, video=VideoConfig(workers=2)) == []
    assert pool.most == 5, "the one that is waited for, and two for each worker"
    data = {"check_videos": 4, "video": {"workers": 2}}
    config = stage_configs(compose(recipe(data=data)).config)[0].config
    asked: list[list[str]] = []

    def note(given: list[Sample], **options: Any) -> list[Any]:
        asked.append([one.id for one in given])
        return []

    monkeypatch.setattr(splits, "check_media", note)
    loaded = splits.Loaded(samples=[sample("i"), *samples], skipped=[])
    monkeypatch.setattr(splits, "load_samples", lambda *_, **__: loaded)
    splits.read_split(config, "train")
    assert asked == [["i"], ["s0", "s1", "s2", "s3"]], "all at once"
    close_pools()


def test_what_is_left_out_says_whether_a_file_is_to_blame() -> None:
    refs = MediaRef(path="/d/i.png"), MediaRef(kind="video", path="/d/v.mp4")
    config = VideoConfig(decoder="decord")
    by_image = left_out(sample("s", *refs), MediaError("/d/i.png", "is truncated"), config)
    by_video = left_out(sample("s", *refs), MediaError("/d/v.mp4", "is damaged"), config)
    by_text = left_out(sample("s", *refs), PromptError("too long"), config)
    assert [(x.medium, x.decoder) for x in (by_image, by_video, by_text)] == [
        ("/d/i.png", None),
        ("/d/v.mp4", "decord"),
        (None, None),
    ]
    assert by_image.reason == "/d/i.png: is truncated"
    assert BadMedia("/d/i.png", "s", "is truncated", None)._asdict().keys() == {"media", "sample", "reason", "decoder"}
