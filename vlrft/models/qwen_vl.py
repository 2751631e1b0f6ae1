"""What the Qwen-VL families share: ChatML, grids of merged patches, 3-D M-RoPE.

Images and videos go through one vision tower in one call; a video's frames are taken `temporal` at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from vlrft.config import VideoConfig
from vlrft.models.base import media_digest, positions_with
from vlrft.models.chat import ChatFamily, Slot
from vlrft.types import Clip, MediaShape, Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

FRAME_TOKENS = (128, 768)
"""Fewest and most tokens of a pair of frames in qwen-vl-utils (`VIDEO_MIN_TOKEN_NUM`, `VIDEO_MAX_TOKEN_NUM`)."""
VIDEO_TOKENS = 0.9 * 128_000
"""Most tokens that a video takes in qwen-vl-utils (nine tenths of `MODEL_SEQ_LEN`)."""
NO_GRIDS = torch.zeros((0, 3), dtype=torch.int64)


class QwenVL(ChatFamily):
    """Base of the Qwen-VL families."""

    image_token = "<|image_pad|>"
    video_token = "<|video_pad|>"
    run_tokens = (image_token, video_token)
    vision_tokens = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", image_token, video_token)

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        video: VideoConfig | None = None,
    ) -> None:
        super().__init__(model, processor, min_pixels=min_pixels, max_pixels=max_pixels, video=video)
        size = dict(self.image_processor.size)
        self.pixel_budget = {
            "shortest_edge": min_pixels or size["shortest_edge"],
            "longest_edge": max_pixels or size["longest_edge"],
        }
        self.patch = int(self.image_processor.patch_size)
        self.merge = int(self.image_processor.merge_size)
        self.temporal = int(self.video_processor.temporal_patch_size)

    @property
    def factor(self) -> int:
        """Edge in pixels of the square that becomes one token."""
        return self.patch * self.merge

    def input_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        height, width = smart_resize(
            image_size[1],
            image_size[0],
            factor=self.factor,
            min_pixels=self.pixel_budget["shortest_edge"],
            max_pixels=self.pixel_budget["longest_edge"],
        )
        return width, height

    def video_input_size(self, frame_size: tuple[int, int], num_frames: int) -> tuple[int, int]:
        """The rule of qwen-vl-utils: per frame `min_pixels` to `max_pixels`, and of all frames together no more than
        `total_pixels` (a pair of frames counts once), but `min_pixels` in any case.

        A processor that states `cap_pixels_per_frame=True` means its own `size` by the budget of one frame.
        """
        low, high = (tokens * self.factor**2 for tokens in FRAME_TOKENS)
        if getattr(self.video_processor, "cap_pixels_per_frame", None):
            low, high = self.video_processor.size["shortest_edge"], self.video_processor.size["longest_edge"]
        low = self.video.min_pixels or low
        total = self.video.total_pixels or VIDEO_TOKENS * self.factor**2
        limit = max(min(high, total / num_frames * self.temporal), int(low * 1.05))
        limit = min(self.video.max_pixels or limit, limit)
        # Annotated as whole, but qwen-vl-utils passes the fraction too.
        height, width = smart_resize(
            frame_size[1],
            frame_size[0],
            factor=self.factor,
            min_pixels=low,
            max_pixels=limit,  # type: ignore[arg-type]
        )
        return width, height

    def slot(self, shown: MediaShape) -> Slot:
        if shown.num_frames is None:
            return Slot(text=self.image_token, runs=(self.pair_tokens(shown),))
        return Slot(text=self.video_token, runs=(self.num_pairs(shown.num_frames) * self.pair_tokens(shown),))

    def pair_tokens(self, shown: MediaShape) -> int:
        """Tokens of an image, or of `temporal` frames of a video."""
        width, height = shown.size
        if width % self.factor or height % self.factor:
            raise ValueError(
                f"frames of {width}x{height} pixels cannot be shown, both must be multiples of {self.factor}: "
                "decode the video at the size that video_input_size gives"
            )
        return width * height // self.factor**2

    def num_pairs(self, num_frames: int) -> int:
        """The processor repeats the last frame where they do not come out even."""
        return -(-num_frames // self.temporal)

    def pixels(self, shown: Sequence[MediaShape], media: Sequence[Image | Clip]) -> tuple[dict[str, Tensor], list[str]]:
        mm: dict[str, Tensor] = {}
        clips = [item for item in media if isinstance(item, Clip)]
        images = [item for item in media if not isinstance(item, Clip)]
        if images:
            out = self.image_processor(images=images, return_tensors="pt", size=self.pixel_budget)
            mm |= {key: out[key] for key in ("pixel_values", "image_grid_thw")}
        if clips:
            out = self.video_processor(
                videos=[np.require(clip.frames, requirements=["C", "W"]) for clip in clips],
                # The frames have been chosen and resized already.
                do_sample_frames=False,
                do_resize=False,
                input_data_format="channels_last",
                cap_pixels_per_frame=True,
                return_tensors="pt",
            )
            mm |= {key: out[key] for key in ("pixel_values_videos", "video_grid_thw")}
            mm |= self.timing(clips)
        of_videos = iter(_digests(mm.get("pixel_values_videos"), mm.get("video_grid_thw")))
        of_images = iter(_digests(mm.get("pixel_values"), mm.get("image_grid_thw")))
        return mm, [next(of_videos if isinstance(item, Clip) else of_images) for item in media]

    def timing(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """What the rotary positions of videos depend on beside their grids."""
        return {}

    def token_kinds(self, token_ids: Tensor) -> Tensor:
        """0 text, 1 image, 2 video: transformers' `mm_token_type_ids`."""
        image, video = self.run_ids
        kinds: Tensor = (token_ids == image).int() + 2 * (token_ids == video).int()
        return kinds

    def positions(self, token_ids: Sequence[int], mm: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """M-RoPE as the published models were trained with it, and as vLLM places it: what follows a run of vision
        tokens goes on from the largest position in that run.

        transformers 5.19 puts text after a video at `max(height, width)` of its grid instead, which lies before the
        video's last frames where these are many, and decodes from the largest position all the same.
        """
        image, video = self.run_ids
        grids = {image: iter(self._grids(mm, "image_grid_thw")), video: iter(self.video_grids(mm))}
        parts, following = [], 0
        for token, run in itertools.groupby(token_ids):
            if token in grids:
                frames, height, width, step = next(grids[token])
                grid = torch.stack(torch.meshgrid(*map(torch.arange, (frames, height, width)), indexing="ij"))
                # In double precision, then cut off: as vLLM, so that the last digit cannot tell the two apart.
                grid[0] = (grid[0].double() * step).long()
                parts.append(following + grid.reshape(3, -1))
            else:
                parts.append(following + torch.arange(len(list(run))).expand(3, -1))
            following = int(parts[-1].max()) + 1
        return torch.cat(parts, 1), following

    def video_grids(self, mm: Mapping[str, Tensor]) -> list[tuple[int, int, int, float]]:
        """As `_grids`, of every run of video tokens; frames are pairs here."""
        return self._grids(mm, "video_grid_thw")

    def _grids(self, mm: Mapping[str, Tensor], name: str) -> list[tuple[int, int, int, float]]:
        """(frames, height, width, positions from one frame to the next) of every run of vision tokens, in order."""
        return [(t, h // self.merge, w // self.merge, 1.0) for t, h, w in mm.get(name, NO_GRIDS).tolist()]

    def library_inputs(self, prompt: Prompt, token_ids: Tensor) -> dict[str, Tensor]:
        """With rotary positions of our own (see `positions`)."""
        position_ids = positions_with(prompt, token_ids.shape[1] - len(prompt.token_ids))
        return {**prompt.mm, "mm_token_type_ids": self.token_kinds(token_ids), "position_ids": position_ids}

    def split_media(
        self, mm: Mapping[str, Tensor], kinds: Sequence[str], tokens: Sequence[int]
    ) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        names = {"image": ("pixel_values", "image_grid_thw"), "video": ("pixel_values_videos", "video_grid_thw")}
        singles = {kind: self._singles(mm, *names[kind]) for kind in names}
        timed = {key: iter(mm[key]) for key in ("second_per_grid_ts",) if key in mm}
        return [
            (rows, {**about, **({key: next(values) for key, values in timed.items()} if kind == "video" else {})})
            for kind in kinds
            for rows, about in [next(singles[kind])]
        ]

    def about_frame(self, about: Mapping[str, Tensor]) -> dict[str, Tensor]:
        _, height, width = about["video_grid_thw"].tolist()
        return {"image_grid_thw": torch.tensor([1, height, width])}

    def _singles(
        self, mm: Mapping[str, Tensor], pixels: str, grid: str
    ) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        if grid in mm:
            parts = mm[pixels].split(mm[grid].prod(-1).tolist())
            yield from (({pixels: part}, {grid: shape}) for part, shape in zip(parts, mm[grid], strict=True))

    def keep_limits(self) -> None:
        self.image_processor.size = type(self.image_processor.size)(**self.pixel_budget)

    def tower(self, mm: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        names = [("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw")]
        present = [(mm[pixels], mm[grid]) for pixels, grid in names if pixels in mm]
        inner: Any = self.model.model
        out = inner.get_image_features(
            torch.cat([pixels for pixels, _ in present]), torch.cat([grid for _, grid in present]), return_dict=True
        )
        return torch.cat(list(out.pooler_output)), self.deep_features(out)

    def deep_features(self, out: Any) -> list[Tensor]:
        """Features of further vision layers."""
        return []

    def blank_media(self) -> dict[str, Tensor]:
        depth = 3 * self.temporal * self.patch**2
        device = self.model.device
        return {
            "pixel_values": torch.zeros(self.merge**2, depth, device=device),
            "image_grid_thw": torch.tensor([[1, self.merge, self.merge]], device=device),
        }

    def part_of(self, name: str) -> str:
        if not name.startswith("model.visual."):
            return "language_model"
        return "projector" if "merger" in name.split(".")[2] else "vision_tower"

    def export_name(self, name: str) -> str:
        """Published Qwen2-VL and Qwen2.5-VL checkpoints keep the older names: `visual.*`, `model.*`."""
        return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def _digests(pixels: Tensor | None, grids: Tensor | None) -> list[str]:
    if pixels is None or grids is None:
        return []
    parts = pixels.split(grids.prod(-1).tolist())
    return [media_digest(part, grid) for part, grid in zip(parts, grids, strict=True)]
