"""VLM-R1's GUI defects: screenshots before and after an action -> which defect they show, as classification. Seen.

JSONL in ShareGPT form: `id`, `image` (two paths), `conversations` of a human turn that lists the defects
("- Name: description") and asks for one name or "No Defect", and a gpt turn with that name. The list becomes
`meta.labels`; the turn is the prompt as it stands, its images in front as VLM-R1's trainer puts them. Rows whose answer
is none of the names are filtered; with `keep_published` they are kept without a closed set, and flagged.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrft.data.layouts import to_native
from vlrft.data.prep.source_rows import Made, Rows, converted
from vlrft.data.problems import Quarantine, SampleError
from vlrft.data.tables import RowStream

_NAMED = re.compile(r"^- (?!If )([^:\n]+): ", re.M)
_NONE = "No Defect"


def rows(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, keep_published: bool = False
) -> Rows:
    """(where, classification row) of the file, or of those of a folder; `split` is the start of their names."""
    folder = images if images is not None else (path if path.is_dir() else path.parent)
    stream = RowStream(path, split=split if path.is_dir() else None)
    read = functools.partial(_row, folder)
    return converted(stream, read, quarantine=quarantine, keep_published=keep_published)


def _row(folder: Path, columns: Mapping[str, Any], where: str) -> Made:
    native = to_native("sharegpt", columns, where=where)
    answer = native.get("answer")
    text = native["prompt"] if isinstance(native["prompt"], str) else str(native["prompt"])
    labels = list(dict.fromkeys(name.strip() for name in _NAMED.findall(text)))
    if not labels or not isinstance(answer, str) or not answer.strip():
        lacks = "no answer" if labels else 'no list of defects ("- Name: description")'
        raise SampleError(where, f"has {lacks}; it is not one of VLM-R1's GUI rows, format sharegpt reads others")
    labels.append(_NONE)
    known = answer.strip() in labels
    row = {
        **native,
        "task": "classification",
        "images": [str(folder / image) if isinstance(image, str) else image for image in native.get("images") or ()],
        "answer": answer.strip(),
        "meta": {**(native.get("meta") or {}), **({"labels": labels} if known else {})},
    }
    return row, [] if known else [f"the answer {answer.strip()!r} is none of the defects that the prompt lists"]
