"""Groups on disk: one JSON object per line, complete enough to look at, and to go on training from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrft.log import UserError
from vlrft.types import Completion, FinishReason, Group, Prompt, Rollout, Sample, Score, Segment, TextPart


def rollout_file(run_dir: Path, stage: str, step: int, *, evaluation: bool = False) -> Path:
    """rollouts/<stage>-<step>.jsonl of training, rollouts/eval-<stage>-<step>.jsonl of evaluation."""
    return run_dir / "rollouts" / f"{'eval-' if evaluation else ''}{stage}-{step:06d}.jsonl"


def write_groups(
    path: Path,
    groups: Iterable[Group],
    *,
    stage: str,
    step: int,
    judges: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write all groups of one step; the file appears whole or not at all.

    judges: of every rank how often rewards had raised in the stage, and what the stateful ones had learned, when the
    groups were scored. They stand in the first line only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for group in groups:
            about: dict[str, Any] = {"stage": stage, "step": step}
            if judges:
                about["judges"], judges = judges, ()
            file.write(json.dumps({**about, **_record(group, path.parents[1])}, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a rollout file. Raises UserError naming file and line for one that is not JSON."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number} is not JSON ({error}); delete the file to roll out again") from error


def group_from_record(record: Mapping[str, Any], sample: Sample, prompt: Prompt) -> Group:
    """The group that `record` was written from; floats survive the round trip bit by bit."""
    if record["sample_id"] != sample.id:
        raise ValueError(f"the stored rollout is of sample {record['sample_id']!r}, expected {sample.id!r}")
    return Group(sample=sample, prompt=prompt, rollouts=tuple(_rollout(item) for item in record["rollouts"]))


def _record(group: Group, run_dir: Path) -> dict[str, Any]:
    sample, prompt = group.sample, group.prompt
    advantages = group.advantages if group.advantages is not None else (None,) * len(group.rollouts)
    return {
        "sample_id": sample.id,
        "task": sample.task,
        "question": "".join(part.text for part in sample.parts if isinstance(part, TextPart)),
        "images": [
            ref.path if ref.path is not None else _stored(ref.data or b"", run_dir)
            for ref in sample.media
            if ref.kind == "image"
        ],
        "videos": [ref.name() for ref in sample.media if ref.kind == "video"],
        "target": sample.target,
        "target_space": sample.target_space,
        "coord_space": prompt.coord_space,
        "image_sizes": [list(size) for size in prompt.image_sizes],
        "input_sizes": [list(size) for size in prompt.input_sizes],
        "media_digests": list(prompt.media_digests),
        "meta": dict(sample.meta),
        "rollouts": [_rollout_record(r, a) for r, a in zip(group.rollouts, advantages, strict=True)],
    }


def _stored(data: bytes, run_dir: Path) -> str:
    """Images that came as bytes are kept once in the run folder, so that the report can show them."""
    path = run_dir / "images" / hashlib.sha256(data).hexdigest()[:16]
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return str(path.relative_to(run_dir))


def _rollout_record(rollout: Rollout, advantage: float | None) -> dict[str, Any]:
    completion = rollout.completion
    return {
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "logprobs": list(completion.logprobs),
        "segments": [[len(s.token_ids), s.loss_mask] for s in completion.segments],
        "finish_reason": str(completion.finish_reason),
        "policy_version": completion.policy_version,
        "reward": rollout.reward,
        "advantage": advantage,
        "score": {
            "value": rollout.score.value,
            "parts": dict(rollout.score.parts),
            "flags": list(rollout.score.flags),
        },
    }


def _rollout(item: Mapping[str, Any]) -> Rollout:
    segments, at = [], 0
    for length, mask in item["segments"]:
        end = at + length
        segments.append(
            Segment(
                token_ids=tuple(item["token_ids"][at:end]), logprobs=tuple(item["logprobs"][at:end]), loss_mask=mask
            )
        )
        at = end
    completion = Completion(
        segments=tuple(segments),
        text=item["text"],
        finish_reason=FinishReason(item["finish_reason"]),
        policy_version=item["policy_version"],
    )
    score = item["score"]
    judged = Score(value=score["value"], parts=score["parts"], flags=tuple(score["flags"]))
    return Rollout(completion=completion, score=judged, reward=item["reward"])
