"""The exported folder as others read it: its files, and plain transformers on raw images and text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlrft.export.answers import MAX_TOKENS, Answer, Question
from vlrft.export.source import ExportError
from vlrft.models.base import Family

_SHOWN = 5


def compare_weights(family: Family, folder: Path) -> list[str]:
    """Compare every tensor of the folder with the run's: published name, shape, type, value bit by bit.

    Raises ExportError, naming what is missing, unexpected or different; returns what was compared.
    """
    own = _published(family)
    written = _files(folder)
    problems = [f"{name} is missing" for name in sorted(own.keys() - written.keys())]
    problems += [f"{name} is not one of the model's" for name in sorted(written.keys() - own.keys())]
    problems += [
        said for name in sorted(own.keys() & written.keys()) if (said := _unlike(name, own[name], written[name]))
    ]
    if problems:
        raise ExportError(_told("the written weights are not the run's", problems))
    loaded: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto", output_loading_info=True)
    plain, info = loaded
    problems = [f"{kind.replace('_', ' ')}: {name}" for kind, names in info.items() for name in names or ()]
    theirs = plain.state_dict()
    state = family.model.state_dict()
    problems += [f"{name} is not loaded" for name in sorted(state.keys() ^ theirs.keys())]
    problems += [
        said for name in sorted(state.keys() & theirs.keys()) if (said := _unlike(name, state[name], theirs[name]))
    ]
    if problems:
        raise ExportError(_told("plain transformers does not load the run's weights", problems))
    dtype = str(family.model.dtype).removeprefix("torch.")
    return [f"weights: {len(written)} tensors in {dtype}, equal bit by bit in the files and as transformers loads them"]


def load_plain(folder: Path) -> Any:
    """Model and processor by plain transformers."""
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").eval()
    return model, AutoProcessor.from_pretrained(folder)


def plain_answers(
    loaded: tuple[Any, Any], family: Family, questions: Sequence[Question], own: Sequence[Answer]
) -> list[Answer]:
    """Greedy answers by transformers' own processor, forward and `generate`; log-probs of the run's answers."""
    model, processor = loaded
    answers: list[Answer] = []
    for question, expected in zip(questions, own, strict=True):
        inputs = processor.apply_chat_template(
            question.messages(), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        inputs = {name: _of_type(value, model.dtype) for name, value in inputs.items()}
        prompt = inputs["input_ids"]
        with torch.no_grad():
            out = model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=MAX_TOKENS,
                eos_token_id=list(family.stop_ids),
                suppress_tokens=list(family.banned_ids),
            )
        answers.append(
            Answer(
                prompt_ids=tuple(prompt[0].tolist()),
                token_ids=tuple(out[0, prompt.shape[1] :].tolist()),
                logprobs=_logprobs(model, inputs, expected.token_ids),
            )
        )
    return answers


def _logprobs(model: Any, inputs: dict[str, Any], token_ids: Sequence[int]) -> tuple[float, ...]:
    """Of `token_ids` after the prompt, by one ordinary forward."""
    answer = torch.tensor(token_ids)[None]
    full = dict(inputs, input_ids=torch.cat([inputs["input_ids"], answer], 1))
    full["attention_mask"] = torch.ones_like(full["input_ids"])
    if "mm_token_type_ids" in full:
        full["mm_token_type_ids"] = torch.cat([full["mm_token_type_ids"], torch.zeros_like(answer)], 1)
    with torch.no_grad():
        logits = model(**full).logits[0, -len(token_ids) - 1 : -1].float()
    return tuple(logits.log_softmax(-1).gather(1, answer[0, :, None])[:, 0].tolist())


def _of_type(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _published(family: Family) -> dict[str, Tensor]:
    """The run's weights by published name; one that two modules share once, under the first name."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in family.model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            found[family.export_name(name)] = tensor
    return found


def _files(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def _unlike(name: str, own: Tensor, theirs: Tensor) -> str | None:
    if own.dtype != theirs.dtype or own.shape != theirs.shape:
        return f"{name}: {own.dtype} {tuple(own.shape)} in the run, {theirs.dtype} {tuple(theirs.shape)} there"
    bits = [tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8) for tensor in (own, theirs)]
    return None if torch.equal(*bits) else f"{name}: values differ"


def _told(what: str, problems: Sequence[str]) -> str:
    more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return f"{what}, so nothing was exported:\n  " + "\n  ".join(problems[:_SHOWN]) + more
