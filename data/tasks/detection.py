"""Detection: every object that is asked for, with box and class; open and closed vocabulary, and negatives.

Target: `[{"bbox": [x1, y1, x2, y2], "label": "cat"}, ...]` in `target_space`, `[]` for an image without such objects; a
label of null on all objects where classes do not matter. `meta.labels` is the closed vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vlrft.data.tasks.coordinates import Canvas
from vlrft.data.tasks.labels import check_label, check_labels
from vlrft.data.tasks.media_fields import ONE_IMAGE
from vlrft.data.tasks.row_task import FORMAT, Fields, RowTask
from vlrft.data.tasks.targets import check_boxes
from vlrft.types import Sample


class Detection(RowTask):
    """The task `detection`."""

    name = "detection"
    rewards = ("det.match_iou", FORMAT)
    metric = "det.f1@0.5"
    media = ONE_IMAGE
    thought = "I go through the image and read off the edges of every object that is asked for."

    def read_target(self, fields: Fields) -> Any:
        objects = fields.answer(decode=True)
        known = check_labels(fields)
        if not isinstance(objects, list | tuple):
            raise fields.error(
                f'`answer` is {objects!r:.200}; write [{{"bbox": [x1, y1, x2, y2], "label": "name"}}, ...], [] for none'
            )
        for i, item in enumerate(objects):
            if not isinstance(item, Mapping) or "bbox" not in item or "label" not in item:
                raise fields.error(
                    f'object {i} of `answer` is {item!r:.200}; write {{"bbox": [x1, y1, x2, y2], "label": "name"}}'
                )
            if item["label"] is not None:
                check_label(item["label"], known, fields, f"the label of object {i} of `answer`")
        unnamed = sum(item["label"] is None for item in objects)
        if unnamed and unnamed < len(objects):
            raise fields.error(f"{unnamed} of {len(objects)} objects have no label; name all of them, or none")
        boxes = check_boxes(
            [item["bbox"] for item in objects], space=fields.space, image_size=fields.size, where=fields.where
        )
        return [{**item, "bbox": box} for item, box in zip(objects, boxes, strict=True)]

    def answer(self, sample: Sample, canvas: Canvas) -> str:
        entries = []
        for item in sample.target:
            name = "" if item["label"] is None else f', "label": {json.dumps(item["label"], ensure_ascii=False)}'
            entries.append(f'{{"bbox_2d": {canvas.box(sample, item["bbox"])}{name}}}')
        return f"[{', '.join(entries)}]"
