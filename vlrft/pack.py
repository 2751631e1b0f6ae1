"""Groups -> micro-batches: each prompt and its media once, its completions behind it, nothing padded.

Stop 9 of a batch. The loss weight of every token is fixed here from counts over the whole optimiser step, so that how
groups are cut into micro-batches (or spread over ranks) cannot change the loss.

Shape suffixes: T stream tokens, N predicted (completion) tokens, S sequences of the micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vlrft.layout import PackedLayout, layout_of
from vlrft.models.base import following_positions
from vlrft.types import FinishReason, Group, Prompt

MediaCollator = Callable[[Sequence[Prompt]], dict[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What one optimiser step holds, over all micro-batches and ranks."""

    tokens: int
    """Tokens that carry loss, EOS included."""
    sequences: int
    """Sequences with at least one such token."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """One micro-batch: a single packed stream."""

    inputs: dict[str, Tensor]
    """For Policy.forward: input_ids [1, T], position_ids [3, 1, T], predict_at [N], targets [N], and the media.
    Parts of a split group share the tensors of its media."""
    layout: PackedLayout
    groups: tuple[Group, ...]
    """The (parts of) groups in the stream, in order."""
    sequence_N: Tensor
    """int64 sequence of each predicted token, 0..S-1."""
    loss_mask_N: Tensor
    """1.0 where the token carries loss."""
    weight_N: Tensor
    """Loss weight of each token: aggregation and normalisation in one number (0 where masked)."""
    advantage_N: Tensor
    behaviour_logp_N: Tensor
    """The engine's log-probs of the sampled tokens."""
    touch_vision: bool = False
    """Run the vision tower even without media (`level.level`)."""
    annotations: dict[str, Tensor] = field(default_factory=dict)
    """`old_logp_N`, `ref_logp_N`, filled by the policies before the first optimiser step when needed."""

    @property
    def has_media(self) -> bool:
        """Whether the forward pass runs the vision tower (once)."""
        return self.inputs.keys() > _STREAM

    def to(self, device: torch.device, moved_media: dict[int, Tensor] | None = None) -> Batch:
        """The same batch with its tensors on `device`.

        moved_media: by identity, media tensors that are there already; those moved here are added.
        """
        if device == self.layout.device:
            return self
        there = moved_media if moved_media is not None else {}
        moved = {name: getattr(self, name).to(device) for name in _TENSORS}
        inputs = {}
        for key, tensor in self.inputs.items():
            if key in _STREAM:
                inputs[key] = tensor.to(device)
            elif id(tensor) in there:
                inputs[key] = there[id(tensor)]
            else:
                inputs[key] = there[id(tensor)] = tensor.to(device)
        layout = PackedLayout(self.layout.prompts, self.layout.completions, device)
        annotations = {key: value.to(device) for key, value in self.annotations.items()}
        return replace(self, inputs=inputs, layout=layout, annotations=annotations, **moved)


_STREAM = {"input_ids", "position_ids", "predict_at", "targets"}
"""Inputs that are not media."""
_TENSORS = ("sequence_N", "loss_mask_N", "weight_N", "advantage_N", "behaviour_logp_N")


def loss_mask(group: Group, index: int, *, mask_truncated: bool) -> tuple[bool, ...]:
    """Which tokens of completion `index` carry loss."""
    completion = group.rollouts[index].completion
    if mask_truncated and completion.finish_reason == FinishReason.LENGTH:
        return (False,) * len(completion.token_ids)
    return completion.loss_mask


def count(groups: Sequence[Group], *, mask_truncated: bool = False) -> Counts:
    """Tokens and sequences with loss in `groups`."""
    per_sequence = [
        sum(loss_mask(group, i, mask_truncated=mask_truncated)) for group in groups for i in range(len(group.rollouts))
    ]
    return Counts(tokens=sum(per_sequence), sequences=sum(n > 0 for n in per_sequence))


def token_weight(aggregation: str, counts: Counts, sequence_tokens: int, max_completion_length: int) -> float:
    """Weight of one token of a sequence with `sequence_tokens` loss tokens, so that loss = sum(weight * token loss).

    `seq_mean` (1/N)(1/|y|); `token_mean_global` 1/T; `const` 1/(N L_max); `seq_sum_mean` 1/N; `token_sum` 1
    (methods E.3; counts are of the optimiser step).
    """
    if sequence_tokens == 0 or counts.tokens == 0:
        return 0.0
    weights = {
        "seq_mean": 1.0 / (counts.sequences * sequence_tokens),
        "token_mean_global": 1.0 / counts.tokens,
        "const": 1.0 / (counts.sequences * max_completion_length),
        "seq_sum_mean": 1.0 / counts.sequences,
        "token_sum": 1.0,
    }
    return weights[aggregation]


def pack(
    groups: Sequence[Group],
    collate_media: MediaCollator,
    *,
    token_budget: int,
    aggregation: str,
    max_completion_length: int,
    counts: Counts,
    mask_truncated: bool = False,
) -> list[Batch]:
    """Micro-batches of at most `token_budget` stream tokens; a larger group is split by completions.

    Only a prompt with one completion that together exceed the budget makes a larger micro-batch.
    """

    def weigh(tokens: int) -> float:
        return token_weight(aggregation, counts, tokens, max_completion_length)

    return [_batch(chosen, collate_media, weigh, mask_truncated) for chosen in _bins(groups, token_budget)]


def stream_length(group: Group) -> int:
    """Stream tokens of a group: the prompt once, and of each completion all but the last token (nothing follows it)."""
    return len(group.prompt.token_ids) + sum(len(r.completion.token_ids) - 1 for r in group.rollouts)


def on_device(batches: Sequence[Batch], device: torch.device) -> list[Batch]:
    """`batches` on `device`; media that several of them share are moved once."""
    moved: dict[int, Tensor] = {}
    return [batch.to(device, moved) for batch in batches]


def _bins(groups: Sequence[Group], budget: int) -> Iterator[list[Group]]:
    current: list[Group] = []
    used = 0
    for group in groups:
        for piece in _split(group, budget):
            length = stream_length(piece)
            if current and used + length > budget:
                yield current
                current, used = [], 0
            current.append(piece)
            used += length
    if current:
        yield current


def _split(group: Group, budget: int) -> Iterator[Group]:
    """`group` itself, or parts of its completions that each fit the budget together with the prompt."""
    start, used = 0, len(group.prompt.token_ids)
    for i, rollout in enumerate(group.rollouts):
        length = len(rollout.completion.token_ids) - 1
        if i > start and used + length > budget:
            yield _part(group, start, i)
            start, used = i, len(group.prompt.token_ids)
        used += length
    yield _part(group, start, len(group.rollouts))


def _part(group: Group, start: int, stop: int) -> Group:
    if start == 0 and stop == len(group.rollouts):
        return group
    advantages = group.advantages[start:stop] if group.advantages is not None else None
    return replace(group, rollouts=group.rollouts[start:stop], advantages=advantages)


def _batch(
    groups: list[Group], collate_media: MediaCollator, weigh: Callable[[int], float], mask_truncated: bool
) -> Batch:
    layout = layout_of(
        [(len(g.prompt.token_ids), [len(r.completion.token_ids) - 1 for r in g.rollouts]) for g in groups]
    )
    ids: list[int] = []
    positions: list[Tensor] = []
    predict_at: list[Tensor] = []
    targets: list[int] = []
    per_token: dict[str, list[Tensor]] = {name: [] for name in _TENSORS}
    sequence = 0
    for group, (prompt_start, prompt_length), spans in zip(groups, layout.prompts, layout.completions, strict=True):
        ids.extend(group.prompt.token_ids)
        positions.append(group.prompt.position_ids)
        for i, (rollout, (start, length)) in enumerate(zip(group.rollouts, spans, strict=True)):
            tokens = rollout.completion.token_ids
            ids.extend(tokens[:-1])
            positions.append(following_positions(group.prompt, length))
            # The prompt's last token predicts the first completion token, each further one its successor.
            predict_at.append(
                torch.cat([torch.tensor([prompt_start + prompt_length - 1]), torch.arange(length) + start])
            )
            targets.extend(tokens)
            mask = torch.tensor(loss_mask(group, i, mask_truncated=mask_truncated), dtype=torch.float32)
            advantage = group.advantages[i] if group.advantages is not None else 0.0
            per_token["sequence_N"].append(torch.full((len(tokens),), sequence))
            per_token["loss_mask_N"].append(mask)
            per_token["weight_N"].append(mask * weigh(int(mask.sum())))
            per_token["advantage_N"].append(torch.full((len(tokens),), advantage, dtype=torch.float32))
            per_token["behaviour_logp_N"].append(torch.tensor(rollout.completion.logprobs, dtype=torch.float32))
            sequence += 1
    inputs = {
        "input_ids": torch.tensor(ids)[None],
        "position_ids": torch.cat(positions, 1)[:, None],
        "predict_at": torch.cat(predict_at),
        "targets": torch.tensor(targets),
        **collate_media([g.prompt for g in groups]),
    }
    return Batch(
        inputs=inputs,
        layout=layout,
        groups=tuple(groups),
        sequence_N=torch.cat(per_token["sequence_N"]),
        loss_mask_N=torch.cat(per_token["loss_mask_N"]),
        weight_N=torch.cat(per_token["weight_N"]),
        advantage_N=torch.cat(per_token["advantage_N"]),
        behaviour_logp_N=torch.cat(per_token["behaviour_logp_N"]),
    )
