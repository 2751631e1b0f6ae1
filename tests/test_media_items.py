"""A prompt's media one by one: the trainer's own tensors and tokens, none lost, none doubled."""

from __future__ import annotations

import pytest
import torch

from vlrft.config import DataConfig, ModelConfig, TinyModelConfig
from vlrft.models import FAMILIES, load_family
from vlrft.models.base import Family
from vlrft.testing import Size, make_prompt, noise_media
from vlrft.types import MediaPart, TextPart

SCENES: dict[str, list[Size]] = {
    "text only": [],
    "two images": [(84, 56), (56, 112)],
    "a video": [(56, 56, 5)],
    "all": [(56, 84, 5), (84, 84), (56, 56, 4)],
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return load_family(ModelConfig(tiny=TinyModelConfig(family=request.param)), DataConfig())


@pytest.mark.parametrize("name", SCENES)
def test_items_hold_every_patch_and_every_vision_token_once(family: Family, name: str) -> None:
    prompt = make_prompt(family, "p", SCENES[name])
    items = family.media_items(prompt)
    assert [item.kind for item in items] == ["video" if len(size) == 3 else "image" for size in SCENES[name]]
    assert [item.digest for item in items] == list(prompt.media_digests)
    vision = [i for i, token in enumerate(prompt.token_ids) if token in family.run_ids]  # type: ignore[attr-defined]
    assert vision == [item.start + k for item in items for k, is_vision in enumerate(item.is_vision) if is_vision]
    for key in {key for item in items for key in item.rows}:
        whole = prompt.mm[key] if key in prompt.mm else prompt.mm["pixel_values"]
        parts = [item.rows[key] for item in items if key in item.rows]
        assert sum(map(len, parts)) <= len(whole)
    assert sum(t.numel() for i in items for t in i.rows.values()) == sum(
        value.numel() for key, value in prompt.mm.items() if key.startswith("pixel_values")
    )


def test_items_stand_in_the_order_of_the_prompt_not_of_the_sample(family: Family) -> None:
    media = noise_media(family, [(56, 84), (84, 84)])
    parts = [MediaPart(index=1), TextPart(text=" and "), MediaPart(index=0), TextPart(text="?")]
    prompt = family.render("p", parts, media)
    items = family.media_items(prompt)
    assert [item.digest for item in items] == [prompt.media_digests[1], prompt.media_digests[0]]
    alone = family.media_items(family.render("p", [MediaPart(index=0), TextPart(text="?")], media[:1]))
    for key, tensor in alone[0].rows.items():
        assert torch.equal(items[1].rows[key], tensor)
    assert prompt.media_spans[1] < prompt.media_spans[0]
