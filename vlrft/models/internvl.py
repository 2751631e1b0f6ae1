"""InternVL in its transformers form: images as square tiles, a video's frames as one tile each; 1-D rotary positions.

Coordinates are on a 0-1000 grid. A tile takes `image_seq_length` tokens. An image is cut into the grid of tiles whose
shape is nearest to its own, and shown once more as a whole when that is more than one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from vlrft.config import VideoConfig
from vlrft.models.base import media_digest
from vlrft.models.chat import ChatFamily, Slot
from vlrft.types import Clip, MediaShape, Prompt

if TYPE_CHECKING:
    from PIL.Image import Image


class InternVL(ChatFamily):
    coord_space = "norm_1000"

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        video: VideoConfig | None = None,
    ) -> None:
        """min_pixels, max_pixels: fewest and most pixels of an image's tiles (the overview not counted)."""
        about: Any = processor
        self.image_token, self.video_token = about.image_token, about.video_token
        self.start_token, self.end_token = about.start_image_token, about.end_image_token
        self.run_tokens = (self.image_token,)
        self.vision_tokens = (self.start_token, self.end_token, self.image_token, self.video_token)
        super().__init__(model, processor, min_pixels=min_pixels, max_pixels=max_pixels, video=video)
        size = self.image_processor.size
        self.tile = (int(size["width"]), int(size["height"]))
        self.tile_tokens = int(about.image_seq_length)
        area = self.tile[0] * self.tile[1]
        self.most_tiles = max(1, max_pixels // area) if max_pixels else int(self.image_processor.max_patches)
        fewest = math.ceil(min_pixels / area) if min_pixels else int(self.image_processor.min_patches)
        self.fewest_tiles = min(fewest, self.most_tiles)

    def input_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """The image stretched over its grid of tiles."""
        columns, rows = get_optimal_tiled_canvas(
            (image_size[1], image_size[0]), (self.tile[1], self.tile[0]), self.fewest_tiles, self.most_tiles
        )
        return columns * self.tile[0], rows * self.tile[1]

    def video_input_size(self, frame_size: tuple[int, int], num_frames: int) -> tuple[int, int]:
        """One tile, whatever the frames' shape and number; pixel budgets do not apply."""
        return self.tile

    def slot(self, shown: MediaShape) -> Slot:
        tile = f"{self.start_token}{self.image_token}{self.end_token}"
        if shown.num_frames is None:
            return Slot(text=tile, runs=(self._tiles(shown.size) * self.tile_tokens,))
        if shown.size != self.tile:
            raise ValueError(
                f"frames of {shown.size[0]}x{shown.size[1]} pixels cannot be shown, a tile has "
                f"{self.tile[0]}x{self.tile[1]}: decode the video at the size that video_input_size gives"
            )
        text = "\n".join(f"Frame{i + 1}: {tile}" for i in range(shown.num_frames))
        return Slot(text=text, runs=(self.tile_tokens,) * shown.num_frames)

    def _tiles(self, size: tuple[int, int]) -> int:
        """Tiles of an image shown at `size`, its overview included."""
        cut = (size[0] // self.tile[0]) * (size[1] // self.tile[1])
        return cut + 1 if cut > 1 else 1

    def pixels(self, shown: Sequence[MediaShape], media: Sequence[Image | Clip]) -> tuple[dict[str, Tensor], list[str]]:
        if not media:
            return {}, []
        tiles = [self._clip_tiles(item) if isinstance(item, Clip) else self._image_tiles(item) for item in media]
        return {"pixel_values": torch.cat(tiles)}, [media_digest(part) for part in tiles]

    def _image_tiles(self, image: Image) -> Tensor:
        out = self.image_processor(
            images=[image],
            crop_to_patches=True,
            min_patches=self.fewest_tiles,
            max_patches=self.most_tiles,
            return_tensors="pt",
        )
        tiles: Tensor = out["pixel_values"]
        return tiles

    def _clip_tiles(self, clip: Clip) -> Tensor:
        out = self.video_processor(
            videos=[np.require(clip.frames, requirements=["C", "W"])],
            # The frames have been chosen and resized already.
            do_sample_frames=False,
            do_resize=False,
            input_data_format="channels_last",
            return_tensors="pt",
        )
        frames: Tensor = out["pixel_values_videos"][0]
        return frames

    def positions(self, token_ids: Sequence[int], mm: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        return torch.arange(len(token_ids)).expand(3, -1), len(token_ids)

    def text_positions(self, position_ids: Tensor) -> Tensor:
        return position_ids[0]

    def library_inputs(self, prompt: Prompt, token_ids: Tensor) -> dict[str, Tensor]:
        return dict(prompt.mm)

    def split_media(
        self, mm: Mapping[str, Tensor], kinds: Sequence[str], tokens: Sequence[int]
    ) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        counts = [count // self.tile_tokens for count in tokens]
        tiles_of = mm["pixel_values"].split(counts) if counts else ()
        pixels = {"image": "pixel_values", "video": "pixel_values_videos"}
        return [
            (
                {pixels[kind]: tiles},
                {f"{kind}_num_patches": torch.tensor(count), f"{kind}_token_id": torch.tensor(self.image_id)},
            )
            for kind, count, tiles in zip(kinds, counts, tiles_of, strict=True)
        ]

    def about_frame(self, about: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"image_num_patches": torch.tensor(1), "image_token_id": about["video_token_id"]}

    def keep_limits(self) -> None:
        self.image_processor.min_patches, self.image_processor.max_patches = self.fewest_tiles, self.most_tiles

    def tower(self, mm: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        inner: Any = self.model.model
        features: Tensor = inner.get_image_features(mm["pixel_values"], return_dict=True).pooler_output
        return features.flatten(0, 1), []

    def blank_media(self) -> dict[str, Tensor]:
        width, height = self.tile
        return {"pixel_values": torch.zeros(1, 3, height, width, device=self.model.device)}

    def part_of(self, name: str) -> str:
        if name.startswith("model.multi_modal_projector."):
            return "projector"
        return "vision_tower" if name.startswith("model.vision_tower.") else "language_model"

    def export_name(self, name: str) -> str:
        """Published checkpoints keep the older names: `vision_tower.*`, `language_model.model.*`."""
        name = name.replace("model.language_model.", "language_model.model.", 1)
        name = name.replace("model.vision_tower.", "vision_tower.", 1)
        name = name.replace("model.multi_modal_projector.", "multi_modal_projector.", 1)
        return f"language_model.{name}" if name.startswith("lm_head.") else name
