"""A rendered prompt as vLLM's engine takes it after its own preprocessing: ids, tensors, places.

So vLLM's tower sees the very tensors that the trainer's sees, under the very ids: nothing is resized, sampled or
tokenised a second time, and trainer and engine cannot differ in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from vlrft.models.base import Family, MediaItem
from vlrft.types import Prompt

if TYPE_CHECKING:
    from vllm.inputs import EngineInput


def engine_input(family: Family, prompt: Prompt, appended: Sequence[int] = ()) -> EngineInput:
    """What `LLMEngine.add_request` takes in the place of a prompt (`vllm.inputs.engine`).

    appended: token ids of text behind the prompt.
    """
    from vllm.inputs.engine import mm_input, tokens_input
    from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange

    items = family.media_items(prompt)
    ids = [*prompt.token_ids, *appended]
    if not items:
        return tokens_input(ids)
    kinds = list(dict.fromkeys(item.kind for item in items))
    of_kind = {kind: [item for item in items if item.kind == kind] for kind in kinds}
    return mm_input(
        prompt_token_ids=ids,
        mm_kwargs=MultiModalKwargsItems(
            {kind: [item_kwargs(item) for item in group] for kind, group in of_kind.items()}
        ),
        mm_hashes={kind: [item.digest for item in group] for kind, group in of_kind.items()},
        mm_placeholders={
            kind: [
                PlaceholderRange(
                    offset=item.start,
                    length=len(item.is_vision),
                    is_embed=None if all(item.is_vision) else torch.tensor(item.is_vision),
                )
                for item in group
            ]
            for kind, group in of_kind.items()
        },
    )


def item_kwargs(item: MediaItem) -> Any:
    """One item's tensors, each with the rule by which vLLM joins it to those of other items."""
    from vllm.multimodal.inputs import MultiModalBatchedField, MultiModalFieldElem, MultiModalFlatField
    from vllm.multimodal.inputs import MultiModalKwargsItem as KwargsItem

    joined = {
        name: MultiModalFieldElem(data=tensor, field=MultiModalFlatField(slices=[slice(0, len(tensor))]))
        for name, tensor in item.rows.items()
    }
    stacked = {
        name: MultiModalFieldElem(data=tensor, field=MultiModalBatchedField(keep_on_cpu=True))
        for name, tensor in item.about.items()
    }
    return KwargsItem({**joined, **stacked})
