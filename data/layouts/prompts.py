"""Questions of rows: messages and markers to parts, and parts to the native prompt and back.

A part is (kind, text): ("text", "How many?"), ("image", "") or ("video", ""). The markers `<image>` and `<video>` are
slots only in layouts that define them; everywhere else they are literal text, which no layout turns into a slot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlrft.data.layouts.columns import REST
from vlrft.data.layouts.entries import entry
from vlrft.data.problems import SampleError

Part = tuple[str, str]

MARKERS = {"<image>": "image", "<video>": "video"}
_MARKER = re.compile("(<image>|<video>)")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant"}
_ESCAPED = re.compile("<(image|video|bbox|ref-object)>")


@dataclass(slots=True)
class Asked:
    """One question out of a list of messages."""

    parts: list[Part] = field(default_factory=list)
    images: list[Any] = field(default_factory=list)
    """Native entries that stand inside the message itself, in their order."""
    videos: list[Any] = field(default_factory=list)
    system: str | None = None
    answer: Any = None
    """What the assistant's turn after the question says: text, or the number that some files have there."""
    typed: bool = False
    """The question came as typed parts, which say themselves where the media stand."""


def read_dialogue(messages: Any, *, markers: bool, where: str, keys: tuple[str, str] = ("role", "content")) -> Asked:
    """The one question of `messages`: an optional system turn, a user turn, an optional assistant turn.

    `keys` are the names of role and content. `markers`: `<image>` and `<video>` in text content are slots. Raises
    SampleError for longer dialogues, for a native row holds one question.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise SampleError(where, f"the messages are {messages!r:.80}; write a list with one user message")
    asked = Asked()
    roles = []
    for message in messages:
        if not isinstance(message, Mapping) or keys[0] not in message or keys[1] not in message:
            raise SampleError(where, f"message {message!r:.80} lacks {keys[0]} or {keys[1]}; correct the row")
        said = str(message[keys[0]])
        role = "system" if said == "system" else _ROLES.get(said)
        if role is None:
            raise SampleError(where, f"a message has the role {said!r}; known: system, {', '.join(_ROLES)}")
        roles.append(role)
        if role == "system":
            asked.system = _plain(message[keys[1]])
        elif role == "user":
            _read_content(message[keys[1]], asked, markers=markers, where=where)
        else:
            content = message[keys[1]]
            asked.answer = _plain(content) if isinstance(content, str | list | tuple) else content
    if [role for role in roles if role != "system"] not in (["user"], ["user", "assistant"]) or "system" in roles[1:]:
        raise SampleError(
            where, f"has the turns {', '.join(roles)}; a row is one question with at most its answer: cut the dialogue"
        )
    return asked


def split_markers(text: str) -> list[Part]:
    """Text with markers as parts."""
    return [(MARKERS.get(piece, "text"), "" if piece in MARKERS else piece) for piece in _MARKER.split(text) if piece]


def place(parts: list[Part], counts: Mapping[str, int], *, front: bool, where: str) -> list[Part]:
    """`parts` with a slot for every item. `counts`: items by kind (`image`, `video`).

    `front`: a layout whose own trainer puts media before the text takes rows without a single marker too. Raises
    SampleError when the number of slots is not the number of items.
    """
    placed = list(parts)
    for kind in ("video", "image"):
        slots = sum(part[0] == kind for part in placed)
        if slots == 0 and front:
            placed = [(kind, "")] * counts[kind] + placed
        elif slots != counts[kind]:
            raise SampleError(
                where,
                f"the text has {slots} <{kind}> markers, but the row has {counts[kind]} {kind}s; make them agree",
            )
    return placed


def refuse_literal(row: Mapping[str, Any], parts: list[Part], *, layout: str, instead: str, where: str) -> None:
    """Markers in a layout that defines none: neither a slot nor likely meant as text. Raises SampleError.

    A row whose `_vlrft` holds the prompt was written from a native one and may have them.
    """
    if "prompt" in (row.get(REST) or {}).get("fields", {}):
        return
    for kind, text in parts:
        if kind == "text" and (found := _MARKER.search(text)):
            raise SampleError(
                where,
                f"the question holds {found.group()}, which marks nothing in the layout {layout}; if it marks the "
                f"place of an item set format: {instead}, else take it out or write a message with typed parts",
            )


def native_prompt(parts: list[Part], where: str) -> str | list[dict[str, Any]]:
    """The native `prompt`: text where media come first (images, then videos), else one message with typed parts."""
    merged: list[Part] = []
    for kind, text in parts:
        if kind == "text" and merged and merged[-1][0] == "text":
            merged[-1] = ("text", merged[-1][1] + text)
        else:
            merged.append((kind, text))
    kinds = [kind for kind, _ in merged]
    if not any(kind == "text" and text.strip() for kind, text in merged):
        raise SampleError(where, "holds no question; write one")
    ordered = ["image"] * kinds.count("image") + ["video"] * kinds.count("video") + ["text"]
    if kinds == ordered and not _MARKER.search(merged[-1][1]):
        return merged[-1][1]
    content = [{"type": kind, "text": text} if kind == "text" else {"type": kind} for kind, text in merged]
    return [{"role": "user", "content": content}]


def prompt_parts(row: Mapping[str, Any], where: str) -> list[Part]:
    """The parts of a native row's `prompt`, slots for all its media included. Raises SampleError."""
    prompt = row.get("prompt")
    counts = {"image": len(row.get("images") or ()), "video": len(row.get("videos") or ())}
    if isinstance(prompt, str):
        return [*[("image", "")] * counts["image"], *[("video", "")] * counts["video"], ("text", prompt)]
    asked = read_dialogue(prompt, markers=False, where=where)
    if asked.system is not None or asked.answer is not None or asked.images or asked.videos:
        raise SampleError(where, "`prompt` has to be text or a list with exactly one user message; correct the row")
    return place(asked.parts, counts, front=False, where=where)


def with_markers(parts: list[Part]) -> str:
    """Parts as text with markers. Literal marker text is broken with a space: no reader takes it for a slot."""
    return "".join(_ESCAPED.sub(r"< \1>", text) if kind == "text" else f"<{kind}>" for kind, text in parts)


def typed_message(parts: list[Part]) -> list[dict[str, Any]]:
    """Parts as a list with one user message of typed content."""
    content = [{"type": kind, "text": text} if kind == "text" else {"type": kind} for kind, text in parts]
    return [{"role": "user", "content": content}]


def _read_content(content: Any, asked: Asked, *, markers: bool, where: str) -> None:
    if isinstance(content, str):
        asked.parts += split_markers(content) if markers else [("text", content)]
        return
    asked.typed = True
    for item in content if isinstance(content, Sequence) else [content]:
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind == "text" and isinstance(item.get("text"), str):
            asked.parts.append(("text", item["text"]))
        elif kind in ("image", "video"):
            asked.parts.append((kind, ""))
            if item.get(kind) is not None:
                (asked.images if kind == "image" else asked.videos).append(entry(item, kind, where))
        else:
            raise SampleError(where, f"message part {item!r:.80} is not a text, image or video part; correct the row")


def _plain(content: Any) -> str:
    """Text content, or the text parts of typed content."""
    if isinstance(content, str):
        return content
    items = content if isinstance(content, Sequence) else []
    return "".join(str(item.get("text") or "") for item in items if isinstance(item, Mapping))
