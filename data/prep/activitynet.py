"""ActivityNet Captions: sentences with their spans in videos (Krishna et al., 2017), for temporal grounding.

Published as `train.json`, `val_1.json`, `val_2.json`:
`{"v_<id>": {"duration", "timestamps": [[start, end], ...], "sentences": [...]}}`, all in seconds (seen). Spans may
overlap; each sentence is a row. Videos are `v_<id>` with any suffix of a video in the folder of `images`.
"""

from __future__ import annotations

from pathlib import Path

from vlrft.data.prep.moments import MomentRule, Seconds, moment_rows, read_moments_json, slack_of
from vlrft.data.prep.source_rows import Rows, annotation_file, media_folder
from vlrft.data.problems import Quarantine

_NAMES = ("{split}.json", "activitynet_captions_{split}.json", "activitynet_captions.json")


def rows(
    path: Path,
    *,
    split: str | None,
    images: Path | None,
    quarantine: Quarantine,
    slack: Seconds | None = None,
    keep_published: bool = False,
) -> Rows:
    """(where, row of temporal_grounding) for each sentence, with `meta.duration`.

    slack: seconds by which a span may pass the stated duration; None = 0.5, as tasks let pass, and with
    `keep_published` 0. Left out: spans that end later than that, start after the video or end before they start (with
    `keep_published` kept and flagged), and entries that are malformed.
    """
    file = annotation_file(path, split, _NAMES)
    moments, durations = read_moments_json(file, quarantine)
    rule = MomentRule(
        folder=media_folder(path, images), durations=durations, slack=slack_of(slack, keep_published),
        keep_published=keep_published,
    )  # fmt: skip
    return moment_rows(moments, rule, quarantine)
