"""Clips decoded before their turn: in order, within a memory limit, and the next as soon as there is room."""

from __future__ import annotations

from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest
from videos import write_video

from vlrft import renderer as rendering
from vlrft.config import DataConfig, ModelConfig, TinyModelConfig, VideoConfig
from vlrft.data.tasks import build_task
from vlrft.data.tasks.base import Row
from vlrft.data.video import ClipRequest, ClipsAhead, submit_clip
from vlrft.models import load_family
from vlrft.models.base import PromptError
from vlrft.types import Clip, MediaPart, MediaRef, Sample, TextPart

pytest.importorskip("av", reason="PyAV is not installed (it comes with the extra `video`)")


def request(number: int, frames: int = 1) -> ClipRequest:
    """Of 300 bytes a frame."""
    ref = MediaRef(kind="video", path=f"{number}.mp4")
    return ClipRequest(ref=ref, times=tuple(map(float, range(frames))), size=(10, 10))


class Line:
    def __init__(self, capacity: int) -> None:
        self.names: list[str] = []
        self.futures: list[Future[Clip]] = []
        self.ahead = ClipsAhead[int](self.submit, capacity=capacity)

    def submit(self, wanted: ClipRequest) -> Future[Clip]:
        self.names.append(wanted.ref.name()[0])
        self.futures.append(Future())
        return self.futures[-1]

    @property
    def asked(self) -> str:
        return "".join(self.names)


def test_no_more_than_fits_is_submitted_and_the_next_when_there_is_room() -> None:
    line = Line(capacity=1000)
    for key in range(5):
        line.ahead.add(key, [request(key)])
    assert (line.asked, line.ahead.bytes_submitted) == ("012", 900)
    assert line.ahead.take(0) == line.futures[:1]
    assert line.asked == "012", "taken is not yet let go"
    line.ahead.done(0)
    assert line.asked == "0123"
    line.ahead.done(4)
    line.ahead.done(1)
    assert (line.asked, line.ahead.bytes_submitted) == ("0123", 600)
    assert 4 not in line.ahead


def test_an_item_that_exceeds_the_limit_alone_goes_alone() -> None:
    line = Line(capacity=1000)
    line.ahead.add(0, [request(0)])
    line.ahead.add(1, [request(1, frames=9), request(2)])
    line.ahead.add(2, [request(3)])
    assert line.asked == "0", "order is kept: a small one behind a large one waits too"
    line.ahead.done(0)
    assert line.asked == "012"
    line.ahead.done(1)
    assert line.asked == "0123"


def test_what_is_taken_out_of_turn_is_submitted_at_once() -> None:
    line = Line(capacity=500)
    for key in range(3):
        line.ahead.add(key, [request(key)])
    assert line.asked == "0"
    assert len(line.ahead.take(2)) == 1
    assert line.asked == "02"
    line.ahead.done(0)
    assert line.asked == "02"
    line.ahead.done(2)
    assert line.asked == "021"


def test_what_is_let_go_is_cancelled() -> None:
    line = Line(capacity=500)
    line.ahead.add(0, [request(0)])
    line.ahead.done(0)
    with pytest.raises(CancelledError):
        line.futures[0].result(timeout=0)
    assert line.ahead.bytes_submitted == 0


def sample(name: str, *refs: MediaRef) -> Sample:
    parts = (*(MediaPart(index=i) for i in range(len(refs))), TextPart(text="the red square"))
    return Sample(id=name, task="grounding", parts=parts, media=refs, target=[8.0, 8.0, 40.0, 40.0])


def renderer_of(data: DataConfig, family: str = "qwen2_5_vl") -> rendering.Renderer:
    tiny = TinyModelConfig(family=family, hidden_size=64, num_layers=1, vision_hidden_size=32, vision_layers=2)
    return rendering.Renderer(load_family(ModelConfig(tiny=tiny), data), data)


def test_a_batch_larger_than_the_limit_is_decoded_as_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_video(tmp_path / f"{i}.mp4", 20, first=i) for i in range(6)]
    samples = [sample(f"s{i}", MediaRef(kind="video", path=str(path))) for i, path in enumerate(paths)]
    renderer = renderer_of(DataConfig(video=VideoConfig(num_frames=4, ahead_mb=1), on_bad_sample="skip"))
    assert renderer._ahead.capacity == 2**20
    asked: list[str] = []
    most: list[int] = []
    width, height = renderer.family.video_input_size((128, 64), 4)
    one, room = 4 * 3 * width * height, 2
    renderer._ahead.capacity = room * one

    def note(ref: MediaRef, *rest: Any) -> Future[Clip]:
        asked.append(Path(ref.name()).stem)
        most.append(renderer._ahead.bytes_submitted)
        return submit_clip(ref, *rest)

    monkeypatch.setattr(rendering, "submit_clip", note)
    renderer.prepare([*samples, samples[0]])
    assert asked == [str(i) for i in range(room)]
    rendered, skipped = renderer.usable(samples)
    assert [one.id for one, _ in rendered] == [f"s{i}" for i in range(6)]
    assert not skipped
    assert asked == list("012345"), "each once, in order"
    assert max(most) < renderer._ahead.capacity
    assert renderer._ahead.bytes_submitted == 0
    assert not renderer._asked


def track(paths: list[Path], boxes: int, **changes: Any) -> Row:
    answer = [[8.0, 8.0, 20.0 + i, 40.0] for i in range(boxes)]
    return {
        "id": "t", "prompt": "the square", "task": "tracking", "answer": answer,
        "videos": [{"frames": [str(path) for path in paths], "fps": 10 / 3}], **changes,
    }  # fmt: skip


@pytest.fixture
def frames(tmp_path: Path) -> list[Path]:
    from PIL import Image

    paths = [tmp_path / f"{i}.png" for i in range(8)]
    for i, path in enumerate(paths):
        Image.new("RGB", (64, 48), (20 * i, 0, 0)).save(path)
    return paths


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"])
@pytest.mark.parametrize("number", [7, 8])
def test_every_frame_of_a_track_is_shown(frames: list[Path], family: str, number: int) -> None:
    """At 3.33 frames per second data.video would show four of eight."""
    one = build_task("tracking").to_sample(track(frames[:number], number), where="rows:1")
    renderer = renderer_of(DataConfig(task="tracking"), family)
    shown: list[Clip] = []
    render = renderer.family.render

    def note(name: str, parts: Any, media: Any) -> Any:
        shown.extend(media)
        return render(name, parts, media)

    renderer.family.render = note
    renderer.prompt(one)
    assert [round(float(frame[..., 0].mean())) for frame in shown[0].frames] == [20 * i for i in range(number)]
    assert renderer.measure(one)[1] == len(renderer.prompt(one).token_ids)


def test_a_track_shows_the_frames_that_it_asks_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "v.mp4", 20)
    renderer = renderer_of(DataConfig(task="tracking", video=VideoConfig(num_frames=16)))
    asked: list[tuple[float, ...]] = []
    monkeypatch.setattr(
        rendering, "submit_clip", lambda ref, times, *rest: asked.append(times) or submit_clip(ref, times, *rest)
    )
    made = [
        build_task("tracking").to_sample({**track([], 3, **changes), "videos": [str(path)]}, where="rows:1")
        for changes in ({"id": "spread"}, {"id": "stated", "meta": {"timestamps": [0.1, 0.5, 1.2]}})
    ]
    renderer.usable(made)
    assert asked == [pytest.approx((0.0, 1.0, 1.9)), pytest.approx((0.1, 0.5, 1.2))]


def test_a_track_with_more_boxes_than_frames_is_refused(frames: list[Path], tmp_path: Path) -> None:
    task, renderer = build_task("tracking"), renderer_of(DataConfig(task="tracking"))
    with pytest.raises(ValueError, match=r"rows:1: `answer` has 9 boxes, but .* has 8 frames; give one box per frame"):
        task.to_sample(track(frames, 9), where="rows:1")
    part = {"frames": [str(path) for path in frames], "fps": 1.0, "start": 0.0, "end": 3.5}
    cut = task.to_sample(track(frames, 5, videos=[part]), where="rows:1")
    with pytest.raises(PromptError, match=r"sample 't': `answer` has 5 boxes, but .* has 4 frames"):
        renderer.prompt(cut)
    whole = task.to_sample(track(frames, 4, videos=[part]), where="rows:1")
    assert renderer.prompt(whole).durations == (3.5,)
    few = task.to_sample({**track([], 9), "videos": [str(write_video(tmp_path / "v.mp4", 6))]}, where="rows:1")
    with pytest.raises(PromptError, match=r"`answer` has 9 boxes, but .*v\.mp4 has 6 frames"):
        renderer.check(few)
