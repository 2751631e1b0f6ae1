"""The text of a completion or a prompt, which trainers hand over as text or as a list of chat messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def text_of(completion: Any, role: str = "assistant") -> str:
    """A text as it is; of messages `{"role", "content"}`, or of a single one, the last of `role`.

    Raises TypeError for anything else.
    """
    if isinstance(completion, str):
        return completion
    messages = [completion] if isinstance(completion, Mapping) else completion
    if not isinstance(messages, Sequence) or not all(isinstance(m, Mapping) and "content" in m for m in messages):
        raise TypeError(
            "a completion is a text, or a list of messages such as {'role': 'assistant', 'content': 'a text'}, got "
            f"{completion!r:.80} ({type(completion).__name__})"
        )
    turns = [message["content"] for message in messages if message.get("role", role) == role]
    return _joined(turns[-1]) if turns else ""


def _joined(content: Any) -> str:
    """The content of a message: a text, nothing (a mere tool call), or typed parts, of which the texts count."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        return "".join(part.get("text") or "" for part in content if part.get("type") == "text")
    return content or ""
