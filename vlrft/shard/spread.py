"""What strategies share under which no rank holds the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vlrft.layout import layout_of
from vlrft.level import filler
from vlrft.models.base import positions_with
from vlrft.policy import Policy
from vlrft.shard.base import States, other_tensors, parameters_once, put_parameters, shapes_of, whole
from vlrft.types import Prompt


def move_into_twin(policy: Policy) -> Policy:
    """The same policy in modules of its own, which take the parameters with them.

    Sharding libraries change modules for good. The plain ones stay behind with parameters of the meta device, and get
    real ones again when training gives the weights back.
    """
    model = policy.model
    family = copy.copy(policy.family)
    # The parameters themselves are not copied: there is never a second set of them.
    family.model = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    family.lm_head = family.model.lm_head
    empty = {name: torch.empty_like(p, device="meta") for name, p in parameters_once(model).items()}
    put_parameters(model, empty)
    return Policy(family, policy.head_options, policy.attention)


class Spread:
    """Base: `policy` is a twin of `plain`, which is the family's own model."""

    policy: Policy
    plain: Policy
    wrapped: Any
    entries: Callable[[], Iterator[tuple[str, States]]]
    full: Callable[[nn.Parameter], Tensor]
    """A parameter's whole weight; collective."""

    def take(self, policy: Policy) -> Policy:
        """`policy`'s twin, ready to be cut up; engines that look for the family's weights find them here."""
        self.plain = policy
        policy.family.spread = self
        return move_into_twin(policy)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the model whole, one by one, a tied one under its first name. Collective."""
        for name, parameter in parameters_once(self.policy.model).items():
            yield name, self.full(parameter)
        yield from other_tensors(self.policy.model).items()

    def logprobs(self, prompt: Prompt | None, token_ids: Sequence[int]) -> list[float]:
        """Log-probs of a completion's tokens at temperature 1 and without bans. Collective: a rank that does not want
        to know gives no prompt and gets []."""
        batch = replace(filler(self.policy.family), touch_vision=True)
        inputs, layout = batch.inputs, batch.layout
        if prompt is not None:
            inputs = _inputs(self.policy, prompt, token_ids)
            layout = layout_of([(len(prompt.token_ids), [len(token_ids) - 1])], self.policy.model.device)
        asked, was_training = self.policy.head_options, self.policy.training
        self.policy.head_options = replace(asked, temperature=1.0, banned_ids=())
        self.wrapped.eval()
        try:
            with torch.no_grad():
                logp_N = self.wrapped(**inputs, layout=layout, touch_vision=True)["logp"]
        finally:
            self.policy.head_options = asked
            self.wrapped.train(was_training)
        found: list[float] = logp_N.tolist() if prompt is not None else []
        return found

    def give_back(self) -> None:
        """Whole weights, on the host, into the plain model."""
        full = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.tensors()}
        buffers, shapes = dict(self.plain.model.named_buffers()), shapes_of(self.plain.model)
        for name in other_tensors(self.policy.model):
            buffers[name].copy_(full.pop(name))
        for name, tensor in full.items():
            whole(name, tensor, shapes)
        put_parameters(self.plain.model, full)
        self.plain.family.spread = None


def _inputs(policy: Policy, prompt: Prompt, token_ids: Sequence[int]) -> dict[str, Tensor]:
    """Of `Policy.forward`, for one prompt and one completion."""
    device, count = policy.model.device, len(prompt.token_ids)
    return {
        "input_ids": torch.tensor([*prompt.token_ids, *token_ids[:-1]], device=device)[None],
        "position_ids": positions_with(prompt, len(token_ids) - 1).to(device),
        "predict_at": torch.arange(count - 1, count - 1 + len(token_ids), device=device),
        "targets": torch.tensor(list(token_ids), device=device),
        **{key: value.to(device) for key, value in policy.family.collate_media([prompt]).items()},
    }
