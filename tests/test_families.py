"""Every family against transformers' own processor and rotary index: ids, pixels, positions, timing, names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText
from transformers.video_utils import VideoMetadata

from vlrft.config import DataConfig, ModelConfig, TinyModelConfig, VideoConfig
from vlrft.models import FAMILIES, load_family
from vlrft.models.base import Family, PromptError
from vlrft.models.tiny import build_tiny
from vlrft.pack import count, pack
from vlrft.policy import HeadOptions, Policy
from vlrft.testing import make_group, make_prompt, noise_clip, noise_image, noise_media, random_completions
from vlrft.types import Clip, MediaPart, MediaShape, Part, Prompt, TextPart

SCENES: dict[str, list[Any]] = {
    "images": [(100, 70), (84, 84), "which?"],
    "video": [(84, 56, 4), "when?"],
    "odd number of frames": ["Look: ", (56, 56, 5), "when?"],
    # As many frames in both: InternVL's own processor takes no others.
    "video, image, video": ["first", (84, 56, 4), " then ", (100, 70), (56, 112, 4), "and?"],
    "text only": ["why?"],
}


def tiny(name: str) -> TinyModelConfig:
    return TinyModelConfig(family=name, hidden_size=64, num_layers=2, intermediate_size=96, vision_hidden_size=32,
                           vision_layers=3, vision_intermediate_size=64, number_tokens=10)  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return load_family(ModelConfig(tiny=tiny(request.param)), DataConfig())


def scene(family: Family, name: str) -> tuple[list[Part], list[Any]]:
    """Parts and media of SCENES[name]; the media in another order than the parts show them."""
    sizes = [item for item in SCENES[name] if not isinstance(item, str)]
    media = noise_media(family, sizes)[::-1]
    shown = iter(reversed(range(len(media))))
    parts = [TextPart(text=i) if isinstance(i, str) else MediaPart(index=next(shown)) for i in SCENES[name]]
    return parts, media


def stock(family: Family, parts: list[Part], media: list[Any]) -> dict[str, Any]:
    """What the processor itself makes of the same turn, told which frames the clips hold."""
    content: list[dict[str, Any]] = []
    images, clips = [], []
    for part in parts:
        if isinstance(part, TextPart):
            content.append({"type": "text", "text": part.text})
            continue
        item = media[part.index]
        content.append({"type": "video" if isinstance(item, Clip) else "image"})
        (clips if isinstance(item, Clip) else images).append(item)
    text = family.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    about: dict[str, Any] = {}
    if clips:
        about["videos"] = [clip.frames for clip in clips]
        about["video_metadata"] = [
            VideoMetadata(total_num_frames=len(c.frames), fps=c.fps, frames_indices=list(range(len(c.frames))))
            for c in clips
        ]
        about["do_sample_frames"] = False
    return dict(family.processor(text=[text], images=images or None, return_tensors="pt", **about))


@pytest.mark.parametrize("name", SCENES)
def test_ids_and_pixels_equal_the_processors(family: Family, name: str) -> None:
    parts, media = scene(family, name)
    prompt = family.render("s", parts, media)
    expected = stock(family, parts, media)
    assert list(prompt.token_ids) == expected["input_ids"][0].tolist()
    tensors = {"pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw", "second_per_grid_ts"}
    assert prompt.mm.keys() == expected.keys() & tensors
    assert bool(prompt.mm) == bool(media)
    for key, value in prompt.mm.items():
        assert torch.equal(value, expected[key]), key
    if "mm_token_type_ids" in expected:
        ours = family.library_inputs(prompt, expected["input_ids"])["mm_token_type_ids"]
        assert torch.equal(ours, expected["mm_token_type_ids"])


@pytest.mark.parametrize("name", SCENES)
def test_positions_over_prompt_and_completion(family: Family, name: str) -> None:
    """Those of the library where it agrees with the published models: its text after a video of Qwen2(.5)-VL may lie
    before the video's last frames."""
    prompt = family.render("s", *scene(family, name))
    completion = random_completions(family, [7])[0]
    ids = torch.tensor([*prompt.token_ids, *completion])[None]
    if not hasattr(family.model.model, "get_rope_index"):
        expected = torch.arange(ids.shape[1]).expand(3, -1)
    elif "video_grid_thw" in prompt.mm and family.model.config.model_type != "qwen3_vl":
        expected = published_positions(family, prompt, ids[0].tolist())
    else:
        about = {k: v for k, v in family.library_inputs(prompt, ids).items() if k.endswith(("_thw", "_type_ids"))}
        expected = family.model.model.get_rope_index(ids, **about)[0][:, 0]
    following = (prompt.next_position + torch.arange(len(completion))).expand(3, -1)
    assert torch.equal(torch.cat([prompt.position_ids, following], 1), expected)


def published_positions(family: Family, prompt: Prompt, token_ids: list[int]) -> torch.Tensor:
    """Token by token: time, row and column within a run of vision tokens, everything after it beyond its largest."""
    images, videos = (iter(prompt.mm.get(f"{kind}_grid_thw", ())) for kind in ("image", "video"))
    seconds = iter(prompt.mm.get("second_per_grid_ts", ()))
    rows: list[tuple[int, int, int]] = []
    largest, inside = -1, 0
    for token in token_ids:
        if token not in (family.processor.image_token_id, family.processor.video_token_id):
            rows.append((largest + 1,) * 3)
            largest, inside = largest + 1, 0
            continue
        if inside == 0:
            is_video = token == family.processor.video_token_id
            _, height, width = (int(n) for n in next(videos if is_video else images))
            height, width, start = height // 2, width // 2, largest + 1
            timed = is_video and "second_per_grid_ts" in prompt.mm
            step = float(next(seconds)) * family.model.config.vision_config.tokens_per_second if timed else 1.0
        frame, place = divmod(inside, height * width)
        rows.append((start + int(frame * step), start + place // width, start + place % width))
        largest, inside = max(largest, *rows[-1]), inside + 1
    return torch.tensor(rows).T


@pytest.mark.parametrize("name", SCENES)
def test_length_and_sizes_are_known_without_pixels(family: Family, name: str) -> None:
    parts, media = scene(family, name)
    prompt = family.render("s", parts, media)
    shapes = [
        MediaShape(size=m.stored_size, num_frames=len(m.frames), timestamps=m.timestamps)
        if isinstance(m, Clip)
        else MediaShape(size=m.size)
        for m in media
    ]
    assert family.prompt_length("s", parts, shapes) == len(prompt.token_ids)
    assert prompt.image_sizes == tuple(shape.size for shape in shapes)
    assert prompt.input_sizes == tuple(
        family.input_size(s.size) if s.num_frames is None else family.video_input_size(s.size, s.num_frames)
        for s in shapes
    )
    assert prompt.durations == tuple(m.duration if isinstance(m, Clip) else None for m in media)


def test_compact_ids_have_one_placeholder_per_item(family: Family) -> None:
    prompt = family.render("s", *scene(family, "video, image, video"))
    vocabulary = family.processor.tokenizer.get_vocab()
    video, image = (vocabulary[getattr(family, f"{kind}_token")] for kind in ("video", "image"))
    assert [t for t in prompt.compact_ids if t in (video, image)] == [video, image, video]
    template = family.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "when?"}]}],
        add_generation_prompt=True,
    )
    parts, media = [MediaPart(index=0), TextPart(text="when?")], noise_media(family, [(84, 56, 4)])
    compact = family.render("s", parts, media).compact_ids
    assert family.processor.tokenizer.decode(list(compact)) == template


def test_qwen3_writes_the_mean_time_of_each_pair_of_frames() -> None:
    family = load_family(ModelConfig(tiny=tiny("qwen3_vl")), DataConfig())
    clip = replace(noise_clip((56, 56), 5, seed=0), timestamps=(0.0, 0.5, 1.0, 2.25, 9.96))
    prompt = family.render("s", [MediaPart(index=0), TextPart(text="when?")], [clip])
    pads = "<|video_pad|>" * 4
    frames = [f"<{time} seconds><|vision_start|>{pads}<|vision_end|>" for time in ("0.2", "1.6", "10.0")]
    text = family.processor.tokenizer.decode(list(prompt.token_ids))
    assert f"user\n<|vision_start|>{''.join(frames)}<|vision_end|>when?" in text
    assert prompt.mm["video_grid_thw"].tolist() == [[3, 4, 4]]


def test_qwen2_5_counts_rotary_time_in_seconds() -> None:
    family = load_family(ModelConfig(tiny=tiny("qwen2_5_vl")), DataConfig())
    clip = noise_clip((56, 56), 6, seed=0, fps=1.5)
    prompt = family.render("s", [MediaPart(index=0), TextPart(text="when?")], [clip])
    assert prompt.mm["second_per_grid_ts"].tolist() == pytest.approx([2 / 1.5])
    slots = torch.tensor(prompt.token_ids) == family.processor.video_token_id
    # 2 positions per second, 4/3 s per pair of frames: 0, 2.67, 5.33.
    start = int(prompt.position_ids[1, slots][0])
    assert (prompt.position_ids[0, slots] - start).tolist() == [0] * 4 + [2] * 4 + [5] * 4
    slower = family.render("s", [MediaPart(index=0), TextPart(text="when?")], [replace(clip, fps=0.1)])
    assert (slower.position_ids[0, slots] - start).tolist() == [0] * 4 + [40] * 4 + [80] * 4
    assert slower.next_position - prompt.next_position == 80 - 5, "text goes on from where the video's time ends"


def test_internvl_writes_a_line_per_frame() -> None:
    family = load_family(ModelConfig(tiny=tiny("internvl")), DataConfig())
    parts, media = [MediaPart(index=0), TextPart(text="when?")], noise_media(family, [(84, 56, 2)])
    prompt = family.render("s", parts, media)
    tile = f"<img>{'<IMG_CONTEXT>' * 16}</img>"
    text = family.processor.tokenizer.decode(list(prompt.token_ids))
    assert f"user\nFrame1: {tile}\nFrame2: {tile}\nwhen?<|im_end|>" in text
    assert prompt.mm["pixel_values"].shape == (2, 3, 112, 112)


@pytest.mark.parametrize(
    ("size", "budget", "tiles"),
    [
        ((100, 70), {}, (3, 2)),
        ((60, 60), {}, (1, 1)),
        ((120, 40), {}, (3, 1)),
        ((900, 300), {}, (6, 2)),
        ((448, 448), {"max_pixels": 4 * 112**2}, (2, 2)),
        ((448, 448), {"max_pixels": 1}, (1, 1)),
        ((100, 100), {"min_pixels": 3 * 112**2}, (2, 2)),
    ],
)
def test_internvl_tiles_follow_shape_and_budget(size: tuple[int, int], budget: Any, tiles: tuple[int, int]) -> None:
    family = load_family(ModelConfig(tiny=tiny("internvl")), DataConfig(**budget))
    assert family.input_size(size) == (tiles[0] * 112, tiles[1] * 112)
    prompt = make_prompt(family, "s", [size])
    cut = tiles[0] * tiles[1]
    assert len(prompt.mm["pixel_values"]) == (cut + 1 if cut > 1 else 1)
    assert len(prompt.token_ids) - len(prompt.compact_ids) == 2 - 1 + 16 * len(prompt.mm["pixel_values"])


VIDEOS = [((640, 360), 4), ((360, 640), 64), ((1920, 1080), 16), ((100, 40), 8), ((333, 777), 256), ((56, 56), 768)]
BUDGETS: list[dict[str, int]] = [{}, {"max_pixels": 200_000}, {"min_pixels": 50_000, "total_pixels": 2_000_000}]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize(("size", "frames"), VIDEOS)
@pytest.mark.parametrize(("name", "patch"), [("qwen2_vl", 14), ("qwen2_5_vl", 14), ("qwen2_5_vl", 16)])
def test_video_sizes_equal_qwen_vl_utils(
    name: str, patch: int, size: tuple[int, int], frames: int, budget: dict[str, int]
) -> None:
    vision_process = pytest.importorskip("qwen_vl_utils.vision_process")
    family = load_family(
        ModelConfig(tiny=tiny(name).model_copy(update={"patch_size": patch})), DataConfig(video=VideoConfig(**budget))
    )
    # As published processors leave it; a tiny one has budgets of its own.
    family.processor.video_processor.cap_pixels_per_frame = None
    seen: list[Any] = []
    video = torch.zeros(1, 3, size[1], size[0], dtype=torch.uint8).expand(frames, -1, -1, -1)

    def stop(clip: Any, wanted: list[int], **_: Any) -> torch.Tensor:
        seen.append((wanted[1], wanted[0]))
        return torch.zeros(1)

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(vision_process.VIDEO_READER_BACKENDS, "given", lambda ele: (video, {}, 2.0))
        patched.setattr(vision_process, "get_video_reader_backend", lambda: "given")
        patched.setattr(vision_process.transforms.functional, "resize", stop)
        vision_process.fetch_video({"video": "given.mp4", **budget}, image_patch_size=patch)
    assert family.video_input_size(size, frames) == seen[0]


@pytest.mark.parametrize(("size", "frames"), [((100, 60), 4), ((300, 200), 6), ((20, 300), 2), ((500, 400), 40)])
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_video_sizes_equal_the_processors(name: str, size: tuple[int, int], frames: int) -> None:
    family = load_family(ModelConfig(tiny=tiny(name)), DataConfig())
    clip = np.zeros((frames, size[1], size[0], 3), dtype=np.uint8)
    processor = family.processor.video_processor
    for most in (768, 40):
        processor.size = {"shortest_edge": 28 * 28, "longest_edge": most * 28 * 28}
        out = processor([clip], do_sample_frames=False, cap_pixels_per_frame=True, return_tensors="pt")
        _, height, width = out["video_grid_thw"][0].tolist()
        assert family.video_input_size(size, frames) == (width * 14, height * 14)


def test_qwen3_video_budgets_of_the_recipe() -> None:
    def shown(**budget: int) -> tuple[int, int]:
        family = load_family(ModelConfig(tiny=tiny("qwen3_vl")), DataConfig(video=VideoConfig(**budget)))
        return family.video_input_size((560, 560), 8)

    assert shown(total_pixels=8 * 280 * 280) == (280, 280)
    assert shown(max_pixels=140 * 140) == (140, 140)
    assert shown(max_pixels=140 * 140, total_pixels=10**9) == (140, 140)
    family = load_family(ModelConfig(tiny=tiny("qwen3_vl")), DataConfig(video=VideoConfig(min_pixels=112 * 112)))
    assert family.video_input_size((56, 56), 8) == (112, 112)


def test_digests_say_what_the_tower_gets(family: Family) -> None:
    parts, media = scene(family, "video, image, video")
    prompt = family.render("s", parts, media)
    assert len(set(prompt.media_digests)) == 3
    assert family.render("again", [*parts, TextPart(text="!")], media).media_digests == prompt.media_digests
    alone = family.render("s", [MediaPart(index=0)], [media[2]])
    assert alone.media_digests == prompt.media_digests[2:], "in the order of the media, not of the turn"
    frames = media[0].frames.copy()
    frames[0, 0, 0, 0] ^= 255
    changed = family.render("s", parts, [replace(media[0], frames=frames), *media[1:]]).media_digests
    assert [a == b for a, b in zip(changed, prompt.media_digests, strict=True)] == [False, True, True]


def test_frames_that_may_not_be_written_are_taken(family: Family, recwarn: pytest.WarningsRecorder) -> None:
    [clip] = noise_media(family, [(84, 56, 4)])
    parts = [MediaPart(index=0), TextPart(text="when?")]
    expected = family.render("s", parts, [clip]).media_digests
    clip.frames.flags.writeable = False
    assert family.render("s", parts, [clip]).media_digests == expected
    assert not recwarn.list


@pytest.mark.parametrize("batch", [["images", "video", "text only"], ["video, image, video", "images"], ["video"]])
def test_one_tower_call_per_stream(family: Family, batch: list[str]) -> None:
    groups = [
        make_group(family.render(name, *scene(family, name)), random_completions(family, [3, 2])) for name in batch
    ]
    calls: list[int] = []
    tower = next(m for name, m in family.model.named_modules() if name in ("model.visual", "model.vision_tower"))
    hook = tower.register_forward_pre_hook(lambda *_: calls.append(1))
    policy = Policy(family, HeadOptions(banned_ids=family.banned_ids))
    [packed] = pack(groups, family.collate_media, token_budget=10**6, aggregation="token_sum",
                    max_completion_length=8, counts=count(groups))  # fmt: skip
    policy(**packed.inputs, layout=packed.layout)
    assert calls == [1]
    [alone] = pack(groups[-1:], family.collate_media, token_budget=10**6, aggregation="token_sum",
                   max_completion_length=8, counts=count(groups[-1:]))  # fmt: skip
    policy(**alone.inputs, layout=alone.layout)
    assert len(calls) == 1 + bool(groups[-1].prompt.mm)
    hook.remove()


def test_a_stream_without_media_can_touch_the_tower(family: Family) -> None:
    """For ranks that must join the others' collective calls: same log-probs, gradients of zero instead of none."""
    group = make_group(make_prompt(family, "s", []), random_completions(family, [4, 3]))
    [batch] = pack([group], family.collate_media, token_budget=10**6, aggregation="token_sum",
                   max_completion_length=8, counts=count([group]))  # fmt: skip
    policy = Policy(family, HeadOptions(banned_ids=family.banned_ids))
    plain = policy(**batch.inputs, layout=batch.layout)["logp"]
    touched = policy(**batch.inputs, layout=batch.layout, touch_vision=True)["logp"]
    assert torch.equal(plain, touched)
    family.model.zero_grad()
    touched.sum().backward()
    vision = {n: p for n, p in family.model.named_parameters() if family.part_of(n) != "language_model"}  # type: ignore[attr-defined]
    assert not [name for name, p in vision.items() if p.grad is None]
    assert all(not p.grad.any() for p in vision.values() if p.grad is not None)
    family.model.zero_grad()


@pytest.mark.parametrize("name", FAMILIES)
def test_export_names_are_those_of_published_checkpoints(name: str, tmp_path: Path) -> None:
    """A folder whose weights have the exported names loads through transformers, with nothing missing."""
    model, _ = build_tiny(tiny(name))
    family = load_family(ModelConfig(tiny=tiny(name)), DataConfig())
    model.config.save_pretrained(tmp_path)
    exported = {family.export_name(key): p.detach().clone() for key, p in model.named_parameters()}
    prefixes = {"qwen3_vl": "model.", "internvl": "language_model.model."}
    assert all(key.startswith(("visual.", "vision_tower.", "multi_modal_projector.", prefixes.get(name, "model.")))
               for key in exported)  # fmt: skip
    save_file(exported, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for (key, ours), (_, theirs) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), key


@pytest.mark.parametrize("part", ["vision_tower", "projector", "language_model"])
@pytest.mark.parametrize("name", FAMILIES)
def test_each_part_can_be_frozen(name: str, part: str) -> None:
    family = load_family(ModelConfig(tiny=tiny(name), **{f"freeze_{part}": True}), DataConfig())
    parts = {key: family.part_of(key) for key, _ in family.model.named_parameters()}  # type: ignore[attr-defined]
    assert set(parts.values()) == {"vision_tower", "projector", "language_model"}
    for key, parameter in family.model.named_parameters():
        assert parameter.requires_grad == (parts[key] != part), key


def test_what_cannot_be_shown_is_named(family: Family) -> None:
    where, ask = [MediaPart(index=0), TextPart(text="?")], "sample 'odd'"
    with pytest.raises(PromptError, match=rf"{ask}: frames of 50x50 pixels cannot be shown.*video_input_size"):
        family.render("odd", where, [noise_clip((50, 50), 4, seed=0)])
    [clip] = noise_media(family, [(84, 56, 4)])
    with pytest.raises(PromptError, match=rf"{ask}: a video with 4 frames and 3 timestamps"):
        family.render("odd", where, [replace(clip, timestamps=clip.timestamps[:3])])
    with pytest.raises(PromptError, match=rf"{ask} has 1 images and videos, and its question places none"):
        family.render("odd", [TextPart(text="?")], [clip])
    with pytest.raises(PromptError, match=r"the question contains '<\|im_end\|>'"):
        family.render("odd", [MediaPart(index=0), TextPart(text="<|im_end|>")], [clip])


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_extreme_shapes_are_named(name: str) -> None:
    family = load_family(ModelConfig(tiny=tiny(name)), DataConfig())
    for shape in (MediaShape(size=(8000, 30)), MediaShape(size=(8000, 30), num_frames=2, timestamps=(0, 1))):
        with pytest.raises(PromptError, match="sample 'thin': absolute aspect ratio"):
            family.prompt_length("thin", [MediaPart(index=0)], [shape])
    with pytest.raises(PromptError, match="sample 'thin': absolute aspect ratio"):
        family.render("thin", [MediaPart(index=0)], [noise_image((8000, 30), seed=0)])


def test_a_template_that_loses_media_is_refused(family: Family) -> None:
    kept = family.processor.chat_template
    family.processor.chat_template = "{% for m in messages %}hello{% endfor %}"
    try:
        with pytest.raises(PromptError, match=r"sample 's': the chat template placed no media.*\['image'\]"):
            family.render("s", [MediaPart(index=0), TextPart(text="?")], [Image.new("RGB", (56, 56))])
    finally:
        family.processor.chat_template = kept
