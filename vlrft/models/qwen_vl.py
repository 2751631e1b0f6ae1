"""What the Qwen-VL families share: ChatML with one placeholder per image, grids of merged patches, 3-D M-RoPE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from vlrft.logprob import embed
from vlrft.models.base import PromptError
from vlrft.types import Part, Prompt, TextPart

if TYPE_CHECKING:
    from PIL.Image import Image

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")


class QwenVL:
    """Base of the Qwen-VL families; a subclass states its coordinate space and its extra vision features."""

    coord_space = "norm_1000"

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        self.model = model
        self.processor: Any = processor
        self.tokenizer: Any = self.processor.tokenizer
        self.image_processor: Any = self.processor.image_processor
        size = dict(self.image_processor.size)
        self.pixel_budget = {
            "shortest_edge": min_pixels or size["shortest_edge"],
            "longest_edge": max_pixels or size["longest_edge"],
        }
        self.patch = int(self.image_processor.patch_size)
        self.merge = int(self.image_processor.merge_size)
        ids = self.tokenizer.get_vocab()
        self.image_id = ids["<|image_pad|>"]
        self.banned_ids = tuple(ids[token] for token in VISION_TOKENS if token in ids)
        self.stop_ids = tuple(ids[token] for token in STOP_TOKENS if token in ids)
        self.special_tokens = tuple(t for t in self.tokenizer.all_special_tokens if t)
        self.lm_head: nn.Linear = model.lm_head

    def encode(self, text: str) -> tuple[int, ...]:
        self._refuse_special_tokens(text, "text")
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def input_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        factor = self.patch * self.merge
        height, width = smart_resize(
            image_size[1],
            image_size[0],
            factor=factor,
            min_pixels=self.pixel_budget["shortest_edge"],
            max_pixels=self.pixel_budget["longest_edge"],
        )
        return width, height

    def prompt_length(self, sample_id: str, parts: Sequence[Part], image_sizes: Sequence[tuple[int, int]]) -> int:
        compact, _ = self._compact(sample_id, parts, len(image_sizes))
        area = (self.patch * self.merge) ** 2
        return len(compact) + sum(w * h // area - 1 for w, h in map(self.input_size, image_sizes))

    def render(self, sample_id: str, parts: Sequence[Part], images: Sequence[Image]) -> Prompt:
        compact, order = self._compact(sample_id, parts, len(images))
        ordered = [images[i] for i in order]
        mm = self._pixels(ordered)
        grids = mm["image_grid_thw"].tolist() if ordered else []
        token_ids, positions, following = self._expand(compact, grids)
        return Prompt(
            sample_id=sample_id,
            token_ids=tuple(token_ids),
            compact_ids=tuple(compact),
            mm=mm,
            position_ids=positions,
            next_position=following,
            coord_space=self.coord_space,
            image_sizes=tuple(image.size for image in ordered),
            input_sizes=tuple((w * self.patch, h * self.patch) for _, h, w in grids),
        )

    def _compact(self, sample_id: str, parts: Sequence[Part], num_images: int) -> tuple[list[int], list[int]]:
        """Token ids of the user turn with one placeholder per image, and the order in which it shows the images."""
        content: list[dict[str, Any]] = []
        order: list[int] = []
        for part in parts:
            if isinstance(part, TextPart):
                self._refuse_special_tokens(part.text, f"sample {sample_id!r}: the question")
                content.append({"type": "text", "text": part.text})
            else:
                content.append({"type": "image"})
                order.append(part.index)
        if sorted(order) != list(range(num_images)):
            raise PromptError(
                f"sample {sample_id!r} has {num_images} images, and its question places {order or 'none'}: "
                "place each exactly once"
            )
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        compact = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if compact.count(self.image_id) != num_images:
            raise PromptError(
                f"sample {sample_id!r}: the chat template placed {compact.count(self.image_id)} image slots "
                f"for {num_images} images"
            )
        return compact, order

    def _pixels(self, images: list[Image]) -> dict[str, Tensor]:
        if not images:
            return {}
        out = self.image_processor(images=images, return_tensors="pt", size=self.pixel_budget)
        return {"pixel_values": out["pixel_values"], "image_grid_thw": out["image_grid_thw"]}

    def _expand(self, compact: list[int], grids: list[list[int]]) -> tuple[list[int], Tensor, int]:
        """Repeat each placeholder to its image's token count; M-RoPE positions [3, P] and the one that follows."""
        token_ids: list[int] = []
        positions: list[Tensor] = []
        at, remaining = 0, iter(grids)
        for token in compact:
            if token != self.image_id:
                token_ids.append(token)
                positions.append(torch.full((3, 1), at))
                at += 1
                continue
            frames, height, width = next(remaining)
            height, width = height // self.merge, width // self.merge
            grid = torch.stack(
                torch.meshgrid(torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij")
            )
            token_ids.extend([self.image_id] * (frames * height * width))
            positions.append(grid.reshape(3, -1) + at)
            at += max(height, width)
        return token_ids, torch.cat(positions, 1), at

    def collate_media(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        with_media = [p.mm for p in prompts if p.mm]
        if not with_media:
            return {}
        return {key: torch.cat([mm[key] for mm in with_media]) for key in ("pixel_values", "image_grid_thw")}

    def hidden_states(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        mm: Mapping[str, Tensor],
        *,
        accumulate_in_place: bool = False,
        **attention: Any,
    ) -> Tensor:
        inner: Any = self.model.model
        table = inner.get_input_embeddings()
        learns = torch.is_grad_enabled() and table.weight.requires_grad
        embeds = embed(table, input_ids) if accumulate_in_place and learns else table(input_ids)
        extra: dict[str, Any] = {}
        if mm:
            with torch.set_grad_enabled(torch.is_grad_enabled() and self._vision_learns()):
                vision = inner.get_image_features(mm["pixel_values"], mm["image_grid_thw"], return_dict=True)
            features = torch.cat(list(vision.pooler_output)).to(embeds.dtype)
            slots = input_ids == self.image_id
            if int(slots.sum()) != len(features):
                raise PromptError(f"{int(slots.sum())} image tokens in the stream, {len(features)} image features")
            embeds = embeds.masked_scatter(slots.unsqueeze(-1), features)
            extra = self._extra_features(vision, slots)
        out = inner.language_model(
            inputs_embeds=embeds, position_ids=position_ids, use_cache=False, **extra, **attention
        )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def _extra_features(self, vision: Any, slots: Tensor) -> dict[str, Any]:
        """Further vision features that the language model takes (Qwen3-VL's deepstack)."""
        return {}

    def _vision_learns(self) -> bool:
        return any(p.requires_grad for p in self.model.model.visual.parameters())

    def freeze(self, *, vision_tower: bool, projector: bool, language_model: bool) -> None:
        off = {"vision_tower": vision_tower, "projector": projector, "language_model": language_model}
        for name, parameter in self.model.named_parameters():
            if off[self.part_of(name)]:
                parameter.requires_grad_(False)

    @staticmethod
    def part_of(name: str) -> str:
        """vision_tower | projector | language_model, from a parameter name."""
        if not name.startswith("model.visual."):
            return "language_model"
        return "projector" if "merger" in name.split(".")[2] else "vision_tower"

    def export_name(self, name: str) -> str:
        """Published Qwen2-VL and Qwen2.5-VL checkpoints keep the older names: `visual.*`, `model.*`."""
        return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")

    def _refuse_special_tokens(self, text: str, what: str) -> None:
        found = [token for token in self.special_tokens if token in text]
        if found:
            raise PromptError(
                f"{what} contains {found[0]!r}, which is a control token of the model: remove it from the text "
                "(media are placed by typed parts, never by literal tokens)"
            )
