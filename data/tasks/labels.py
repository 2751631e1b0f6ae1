"""Class names of rows: the closed set `meta.labels`, and labels that have to be in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vlrft.data.tasks.row_task import Fields
from vlrft.data.tasks.targets import check_text, check_texts
from vlrft.parse.labels import label_key
from vlrft.registry import nearest


def check_labels(fields: Fields) -> dict[str, str]:
    """`meta.labels` by their normal form; {} where the vocabulary is open. Raises SampleError."""
    labels = fields.meta.get("labels")
    if labels is None:
        return {}
    if not isinstance(labels, list | tuple) or not labels:
        raise fields.error(f"meta.labels is {labels!r:.200}; list the class names, or drop it for an open vocabulary")
    return {label_key(check_text(name, where=fields.where, what="an entry of meta.labels")): name for name in labels}


def check_label(label: Any, known: Collection[str], fields: Fields, what: str) -> str:
    """`label` itself when it is a name and, where the set is closed, one of it. Raises SampleError."""
    check_text(label, where=fields.where, what=what)
    if known and label_key(label) not in known:
        names = fields.meta["labels"]
        raise fields.error(
            f"{what}, {label!r}, is not in meta.labels ({len(names)} names){nearest(label, list(names))}; add it there "
            "or correct it"
        )
    return str(label)


def check_class(answer: Any, fields: Fields) -> str | list[str]:
    """A label, or a list of its synonyms, of which one has to be in a closed set. Raises SampleError."""
    known = check_labels(fields)
    checked = check_texts(answer, where=fields.where)
    names = [checked] if isinstance(checked, str) else checked
    if not any(label_key(name) in known for name in names):
        check_label(names[0], known, fields, "the answer")
    return checked


def class_name(target: str | Sequence[str], meta: Mapping[str, Any]) -> str:
    """The name of the class that `check_class` has passed: the one in the closed set, else the first."""
    names = [target] if isinstance(target, str) else list(target)
    known = {label_key(name) for name in meta.get("labels") or ()}
    return next((name for name in names if label_key(name) in known), names[0])
