"""Whether an engine samples from the trainer's weights: a fixed answer's log-probs in both, after every sync.

Pushing weights can fail without a word: a renamed tensor, a cache of vision features that outlives the weights, a
loader that returns and changes nothing. Rollouts then come from another policy and training quietly turns to noise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from vlrft.layout import layout_of
from vlrft.models.base import Family, positions_with
from vlrft.types import MediaPart, Prompt, TextPart

CANARY_TOKENS = 8
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.1}
"""Largest difference of one token's log-prob by the engine's dtype: rounding, and room for other kernels."""

Replay = Callable[[Prompt, Sequence[int]], list[float]]
"""(prompt, token ids of a completion) -> log-prob of each token at temperature 1, without bans."""


class StaleWeightsError(RuntimeError):
    """The engine's log-probs are not those of the policy it was given."""


def trainer_logprobs(family: Family, prompt: Prompt, token_ids: Sequence[int], *, kind: str = "auto") -> list[float]:
    """Log-probs of a completion's tokens under the trainer's weights, at temperature 1 and without bans.

    Where the weights are spread over ranks this is collective: ranks that do not check call `accompany`.
    """
    if family.spread is not None:
        return family.spread.logprobs(prompt, token_ids)
    device = family.model.device
    count = len(prompt.token_ids)
    ids = torch.tensor([*prompt.token_ids, *token_ids], device=device)[None]
    positions = positions_with(prompt, len(token_ids)).to(device)
    mm = {key: value.to(device) for key, value in family.collate_media([prompt]).items()}
    was_training = family.model.training
    family.model.eval()
    with torch.no_grad():
        layout = layout_of([(count, [len(token_ids)])], device)
        hidden = family.hidden_states(ids, positions, mm, packed=layout, kind=kind)
        logits = family.lm_head(hidden[0, count - 1 : -1]).float()
    family.model.train(was_training)
    logprobs: list[float] = logits.log_softmax(-1).gather(1, ids[0, count:, None])[:, 0].tolist()
    return logprobs


def plain_prompt(family: Family) -> Prompt:
    """An image and a question, for a check before anybody has asked for anything."""
    from PIL import Image

    image = Image.radial_gradient("L").resize((112, 84)).convert("RGB")
    return family.render("canary", [MediaPart(index=0), TextPart(text="What is this?")], [image])


def accompany(family: Family) -> None:
    """This rank's part of another's `trainer_logprobs`."""
    if family.spread is not None:
        family.spread.logprobs(None, ())


@dataclass(slots=True)
class Canary:
    """Compares engine and trainer on one prompt with media and eight tokens chosen once."""

    family: Family
    tolerance: float
    kind: str = "auto"
    prompt: Prompt | None = None
    token_ids: tuple[int, ...] = ()
    largest: float = 0.0
    """Largest difference of the last check."""
    _before: tuple[list[float], list[float]] | None = field(default=None)
    """(engine's, trainer's) log-probs of the check before."""

    def choose(self, prompts: Sequence[Prompt]) -> None:
        """Take the first prompt with media (else the first): once, so that a cache that goes stale is met."""
        if self.prompt is None or not self.prompt.mm:
            chosen = next((p for p in prompts if p.mm), prompts[0] if prompts and self.prompt is None else None)
            if chosen is not None:
                rng = random.Random(0)
                text = "".join(rng.choice("etaoinshrdlu 0123456789") for _ in range(8 * CANARY_TOKENS))
                self.prompt, self.token_ids = chosen, self.family.encode(text)[:CANARY_TOKENS]
                self._before = None

    def check(self, replay: Replay, version: int) -> None:
        """Raises StaleWeightsError, saying what differs."""
        self.check_all([replay], version)

    def expected(self) -> list[float]:
        """The trainer's log-probs of now, for a check when its weights have moved on."""
        if self.prompt is None:
            self.choose([plain_prompt(self.family)])
        assert self.prompt is not None
        return trainer_logprobs(self.family, self.prompt, self.token_ids, kind=self.kind)

    def check_all(self, replays: Sequence[Replay], version: int, trainer: list[float] | None = None) -> None:
        """`check` of several engines that were given the same weights; the trainer's forward is made once.

        trainer: what `expected` gave when the weights were those that the engines have now.
        """
        assert self.prompt is not None, "choose() comes first"
        trainer = self.expected() if trainer is None else trainer
        before = self._before
        for replay in replays:
            self._compare(replay(self.prompt, self.token_ids), trainer, before, version)

    def check_again(self, replay: Replay, version: int) -> None:
        """Compare an engine with the log-probs that the trainer had at the last check."""
        if self.prompt is not None and self._before is not None:
            self._compare(replay(self.prompt, self.token_ids), self._before[1], None, version)

    def _compare(
        self,
        engine: list[float],
        trainer: list[float],
        before: tuple[list[float], list[float]] | None,
        version: int,
    ) -> None:
        gaps = [abs(a - b) for a, b in zip(engine, trainer, strict=True)]
        self.largest = max(gaps)
        self._before = (engine, trainer)
        unmoved = before is not None and before[0] == engine and before[1] != trainer
        moved_by = max(abs(a - b) for a, b in zip(before[1], trainer, strict=True)) if before is not None else 0.0
        if self.largest <= self.tolerance and not (unmoved and moved_by > self.tolerance / 10):
            return
        assert self.prompt is not None
        where = gaps.index(self.largest)
        said = "the engine's did not change at all" if unmoved else "both changed" if before else "at the first sync"
        raise StaleWeightsError(
            f"after the sync to policy version {version} the engine's log-probs are not the trainer's: token {where} "
            f"of {len(gaps)} after prompt {self.prompt.sample_id!r} has {engine[where]:.6f} in the engine and "
            f"{trainer[where]:.6f} in the trainer (largest difference {self.largest:.2e}, tolerance "
            f"{self.tolerance:.0e}; {said}). Rollouts would come from another policy, so the run stops: resume it, "
            "and if this comes again use engine.name=hf and report the versions that `pip freeze` shows"
        )
