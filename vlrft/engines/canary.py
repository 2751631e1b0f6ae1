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
STILL = {torch.float32: 2e-5, torch.bfloat16: 0.02, torch.float16: 3e-3}
"""How far the trainer's log-probs may move while the engine's stay the same bit for bit, by the engine's dtype: the
trainer's own rounding, and steps too small to change a weight of the engine's."""
_SMALL_EXCESS = 3.0
"""Times the tolerance: so much may still be rounding."""

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


@dataclass(frozen=True, slots=True)
class _Since:
    """An engine's log-probs as they have been since a check, and the trainer's at that check."""

    engine: list[float]
    trainer: list[float]
    version: int


@dataclass(slots=True)
class Canary:
    """Compares engines and trainer on one prompt with media and eight tokens chosen once.

    An engine fails where a log-prob is further from the trainer's than `tolerance`, or where its own are the same bit
    for bit over however many checks and the trainer's have moved by more than STILL meanwhile.
    """

    family: Family
    tolerance: float
    kind: str = "auto"
    dtype: torch.dtype = torch.float32
    """Of the engines' weights."""
    prompt: Prompt | None = None
    token_ids: tuple[int, ...] = ()
    largest: float = 0.0
    """Largest difference of the last check."""
    _trainer: list[float] | None = field(default=None)
    """The trainer's log-probs at the last check."""
    _since: dict[int, _Since] = field(default_factory=dict)
    """By engine, in the order in which they are checked."""

    @classmethod
    def of(cls, family: Family, dtype: torch.dtype, tolerance: float | None, *, kind: str = "auto") -> Canary:
        """For engines with weights of `dtype`. tolerance: None = that of TOLERANCES."""
        return cls(family, TOLERANCES[dtype] if tolerance is None else tolerance, kind=kind, dtype=dtype)

    def choose(self, prompts: Sequence[Prompt]) -> None:
        """Take the first prompt with media (else the first): once, so that a cache that goes stale is met."""
        if self.prompt is None or not self.prompt.mm:
            chosen = next((p for p in prompts if p.mm), prompts[0] if prompts and self.prompt is None else None)
            if chosen is not None:
                rng = random.Random(0)
                text = "".join(rng.choice("etaoinshrdlu 0123456789") for _ in range(8 * CANARY_TOKENS))
                self.prompt, self.token_ids = chosen, self.family.encode(text)[:CANARY_TOKENS]
                self._trainer, self._since = None, {}

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
        self._trainer = trainer
        for index, replay in enumerate(replays):
            engine = replay(self.prompt, self.token_ids)
            since = self._since.get(index)
            if since is None or since.engine != engine:
                # What the trainer moves from here on, it must not move alone.
                self._since[index] = _Since(engine, trainer, version)
            self._compare(engine, trainer, since, version)

    def check_again(self, replay: Replay, version: int) -> None:
        """Compare an engine with the log-probs that the trainer had at the last check."""
        if self.prompt is not None and self._trainer is not None:
            self._compare(replay(self.prompt, self.token_ids), self._trainer, None, version)

    def _compare(self, engine: list[float], trainer: list[float], since: _Since | None, version: int) -> None:
        self.largest = _apart(engine, trainer)
        moved_alone = _apart(since.trainer, trainer) if since is not None and since.engine == engine else 0.0
        if self.largest <= self.tolerance and moved_alone <= STILL[self.dtype]:
            return
        assert self.prompt is not None
        where = max(range(len(engine)), key=lambda i: abs(engine[i] - trainer[i]))
        raise StaleWeightsError(
            f"after the sync to policy version {version} the engine's log-probs are not the trainer's: token {where} "
            f"of {len(engine)} after prompt {self.prompt.sample_id!r} has {engine[where]:.6f} in the engine and "
            f"{trainer[where]:.6f} in the trainer (largest difference {self.largest:.2e}, tolerance "
            f"{self.tolerance:.0e}). {self._advice(since, moved_alone)}"
        )

    def _advice(self, since: _Since | None, moved_alone: float) -> str:
        """What the difference may mean, and what to do."""
        of = f"{type(self.family.model).__name__} in {_name(self.dtype)}"
        # Strategies that spread the weights over ranks have none for it.
        other = "" if self.family.spread is not None else "use engine.name=hf (engine.max_staleness=0), and "
        report = f"{other}report the versions that `pip freeze` shows"
        if moved_alone > STILL[self.dtype] and since is not None:
            return (
                f"The engine's did not change at all since policy version {since.version}, in which time the trainer's "
                f"moved by {moved_alone:.2e}: new weights do not reach it. Rollouts would come from another policy, so "
                f"the run stops: resume it; if this comes again, {report}"
            )
        if self.largest <= _SMALL_EXCESS * self.tolerance:
            return (
                f"That is little more than the tolerance. If it is rounding (policy/engine_gap in metrics.jsonl stays "
                f"small), go on with engine.kwargs.canary_tolerance={_SMALL_EXCESS * self.tolerance:.1g}; else {report}"
            )
        if since is None:
            finer = "" if self.dtype == torch.float32 else "try engine.kwargs.dtype=float32, "
            return (
                f"This was the engine's first sync: it computes {of} otherwise than the trainer does in "
                f"{_name(self.family.model.dtype)}, and would again: {finer}{report}"
            )
        return (
            "Engine and trainer agreed before, and the engine's changed too. Rollouts would come from another policy, "
            f"so the run stops: resume it; if this comes again, {report}"
        )


def _apart(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Largest difference of one token's log-prob."""
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
