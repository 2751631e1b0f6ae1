"""vLLM's answers to the questions, from the exported folder, raw images and text, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlrft.export.answers import MAX_TOKENS, Answer, Question
from vlrft.export.questions import context_length
from vlrft.export.source import ExportError
from vlrft.models.base import Family

_SHOWN = 3000


def vllm_answers(
    folder: Path, family: Family, questions: Sequence[Question], own: Sequence[Answer]
) -> list[Answer] | str:
    """As `plain_answers`; a text says why vLLM cannot be asked here.

    Raises ExportError when vLLM is there and fails.
    """
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed (pip install 'vlrft[vllm]')"
    with tempfile.TemporaryDirectory(prefix="vlrft-export-") as scratch:
        place = Path(scratch)
        job = {
            "folder": str(folder),
            "dtype": str(family.model.dtype).removeprefix("torch."),
            "max_model_len": context_length(list(questions)),
            "max_tokens": MAX_TOKENS,
            "stop_ids": list(family.stop_ids),
            "banned_ids": list(family.banned_ids),
            "questions": [
                _question(place, i, family, question, answer)
                for i, (question, answer) in enumerate(zip(questions, own, strict=True))
            ],
        }
        (place / "job.json").write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "vlrft.export.vllm_child", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not (place / "answers.json").is_file():
            raise ExportError(f"vLLM failed on the export:\n{(done.stdout + done.stderr)[-_SHOWN:]}")
        said: Any = json.loads((place / "answers.json").read_text(encoding="utf-8"))
    if isinstance(said, str):
        return said
    return [Answer(**{name: tuple(values) for name, values in answer.items()}) for answer in said]


def _question(place: Path, number: int, family: Family, question: Question, answer: Answer) -> dict[str, Any]:
    paths = [place / f"{number}-{i}.png" for i in range(len(question.images))]
    for path, image in zip(paths, question.images, strict=True):
        image.save(path)
    text = family.processor.apply_chat_template(question.messages(), tokenize=False, add_generation_prompt=True)
    return {
        "text": text,
        "images": [str(path) for path in paths],
        "compact_ids": list(question.prompt.compact_ids),
        "answer": list(answer.token_ids),
    }
