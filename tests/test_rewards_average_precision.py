"""det.map and det.map_length: equal to pycocotools where asked for, and never above it."""

from __future__ import annotations

import contextlib
import io
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.rewards import score

LABELS = ["cat", "dog", "hen"]
A, B = [0, 0, 10, 10], [20, 0, 30, 10]
ONE = [{"bbox": A, "label": "cat"}]
TWO = [*ONE, {"bbox": B, "label": "cat"}]
FAR = [60, 20, 80, 40]


def say(*objects: Any) -> str:
    keys = ("bbox_2d", "label", "confidence")
    items = [{k: v for k, v in zip(keys, o, strict=False) if v is not None} for o in objects]
    return f"<think>looking</think><answer>{json.dumps(items)}</answer>"


def ap(*objects: Any, target: Any = TWO, name: str = "det.map", **options: Any) -> float:
    value = score(name, say(*objects), target, **options).value
    assert value is not None
    return value


def pycocotools_map(objects: list[Any], target: list[Any]) -> float:
    """stats[0] of COCOeval for one image."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(box: list[float]) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        boxes = [xywh(item["bbox"]) for item in target]
        truth.dataset = {
            "images": [{"id": 1}],
            "categories": [{"id": i + 1} for i in range(len(LABELS))],
            "annotations": [
                {"id": i + 1, "image_id": 1, "category_id": LABELS.index(item["label"]) + 1, "bbox": box, "iscrowd": 0}
                | {"area": box[2] * box[3]}
                for i, (item, box) in enumerate(zip(target, boxes, strict=True))
            ],
        }
        truth.createIndex()
        found = COCO()
        found.dataset = {**truth.dataset, "annotations": []}
        for i, (box, label, confidence) in enumerate(objects):
            found.dataset["annotations"].append(
                {"id": i + 1, "image_id": 1, "category_id": LABELS.index(label) + 1, "bbox": xywh(box), "iscrowd": 0}
                | {"area": 1.0, "score": 1.0 if confidence is None else confidence}
            )
        found.createIndex()
        run = COCOeval(truth, found, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return float(run.stats[0])


def scene(seed: int) -> tuple[list[Any], list[Any]]:
    """Some truths, and an answer near them: ties of confidence and of overlap, extras, misses, other classes."""
    rng = random.Random(seed)

    def number() -> float:
        return rng.randint(0, 80) if seed % 2 else rng.uniform(0, 80)

    target = []
    for _ in range(rng.randint(1, 12)):
        x, y = number(), number()
        box = [x, y, x + 5 + number() / 3, y + 5 + number() / 3]
        target.append({"bbox": box, "label": rng.choice(LABELS[: rng.randint(1, 3)])})
    objects = []
    for _ in range(rng.choice([0, 3, 10, 25, 140])):
        near = rng.choice(target)
        spread = rng.choice([0, 1, 1, 3])
        box = [c + (rng.randint(-spread, spread) if seed % 2 else rng.uniform(-spread, spread)) for c in near["bbox"]]
        label = near["label"] if rng.random() < 0.8 else rng.choice(LABELS)
        confidence = [None, rng.random(), rng.choice([0.25, 0.5, 1.0])][seed % 3]
        if box[2] > box[0] and box[3] > box[1]:
            objects.append((box, label, confidence))
    return objects, target


@pytest.mark.parametrize("start", range(0, 200, 20))
def test_equal_to_pycocotools(start: int) -> None:
    pytest.importorskip("pycocotools")
    values = []
    for seed in range(start, start + 20):
        objects, target = scene(seed)
        if not objects:
            assert ap(target=target, ties="coco") == ap(target=target) == 0.0
            continue
        values.append(ap(*objects, target=target, ties="coco"))
        assert values[-1] == pytest.approx(pycocotools_map(objects, target), abs=1e-9), seed
        assert ap(*objects, target=target) <= values[-1] + 1e-12
        assert ap(*objects, target=target, name="det.map_length") <= ap(*objects, target=target) + 1e-12
    assert max(values) > 0.2


@pytest.mark.parametrize(
    ("objects", "coco", "pessimistic"),
    [
        ([(A, "cat"), (B, "cat")], 1.0, 1.0),
        # half of the truths at full precision: recalls 0 to 0.50 of 101
        ([(A, "cat")], 51 / 101, 51 / 101),
        # overlap 0.8: hits at 0.50 to 0.80, seven of ten; beyond, a false positive in front of the other hit
        ([([0, 0, 10, 8], "cat"), (B, "cat")], 0.7 + 0.3 * 51 / 101 * 0.5, 0.7 + 0.3 * 51 / 101 * 0.5),
        # an extra box after the hits is free for coco
        ([(A, "cat"), (B, "cat"), (FAR, "cat")], 1.0, 2 / 3),
        ([(FAR, "cat"), (A, "cat"), (B, "cat")], 2 / 3, 2 / 3),
        # unless its confidence says so
        ([(A, "cat", 0.9), (B, "cat", 0.9), (FAR, "cat", 0.1)], 1.0, 1.0),
        ([(A, "cat", 0.5), (B, "cat", 0.5), (FAR, "cat", 0.9)], 2 / 3, 2 / 3),
        # a class that the image does not have
        ([(A, "cat"), (B, "cat"), (FAR, "dog")], 1.0, 0.5),
        ([(A, "cat"), (B, "cat"), (FAR, "dog"), (FAR, "dog"), (FAR, "hen")], 1.0, 1 / 3),
        ([(A, "dog")], 0.0, 0.0),
        ([(A, "cat"), (A, "cat"), (B, "cat")], (51 + 50 * 2 / 3) / 101, 2 / 3),
    ],
)
def test_golden_numbers(objects: Any, coco: float, pessimistic: float) -> None:
    assert ap(*objects, ties="coco") == pytest.approx(coco)
    assert ap(*objects) == pytest.approx(pessimistic)


def test_a_perfect_answer_is_worth_exactly_one() -> None:
    for ties in ("coco", "pessimistic"):
        assert ap((A, "cat"), target=ONE, ties=ties) == 1.0


def test_map_length_charges_for_every_extra_box() -> None:
    extra = [(FAR, "cat", 0.01)] * 6
    assert ap((A, "cat", 0.9), (B, "cat", 0.9), *extra) == 1.0
    assert ap((A, "cat", 0.9), (B, "cat", 0.9), *extra, name="det.map_length") == pytest.approx(2 / 8)
    assert ap((A, "cat"), name="det.map_length") == pytest.approx(51 / 101)


def test_boxes_beyond_the_hundredth() -> None:
    dump = [(FAR, "cat", 0.5)] * 200
    assert ap((A, "cat", 0.9), (B, "cat", 0.9), *dump) == 1.0
    # All equal: coco looks at the first hundred only, the reward at all.
    assert ap((A, "cat"), (B, "cat"), *[(FAR, "cat")] * 200, ties="coco") == 1.0
    assert ap((A, "cat"), (B, "cat"), *[(FAR, "cat")] * 200) == pytest.approx(2 / 202)


@pytest.mark.parametrize("name", ["det.map", "det.map_length"])
@pytest.mark.parametrize("ties", ["coco", "pessimistic"])
def test_negatives(name: str, ties: str) -> None:
    for text in ("[]", "None", "No Objects"):
        assert score(name, f"<answer>{text}</answer>", [], ties=ties).value == 1.0
        assert score(name, f"<answer>{text}</answer>", ONE, ties=ties).value == 0.0
    assert score(name, say((A, "cat")), [], ties=ties).value == 0.0
    for text, flag in (("<answer>gibberish</answer>", "unparsable"), ("", "no_answer")):
        assert score(name, text, [], ties=ties).value == 0.0
        assert score(name, text, [], ties=ties).flags == (flag,)


@pytest.mark.parametrize("confidence", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_confidence_that_is_not_finite_is_a_false_positive_in_front(confidence: str) -> None:
    text = f'<answer>[{{"bbox": {A}, "label": "cat"}}, {{"bbox": {A}, "label": "cat", "score": {confidence}}}]</answer>'
    for ties in ("coco", "pessimistic"):
        found = score("det.map", text, ONE, ties=ties)
        assert (found.value, found.flags) == (pytest.approx(0.5), ("non_finite",))


def test_bad_boxes_are_false_positives() -> None:
    found = score("det.map", f"<answer>[{A}, [5, 5, 5, 5], [0, 0, NaN, 1]]</answer>", ONE)
    assert (found.value, found.flags) == (pytest.approx(1 / 3), ("invalid_box", "non_finite"))


def test_unknown_ties() -> None:
    with pytest.raises(ValueError, match=r"det\.map: unknown ties 'best'; use one of coco, pessimistic"):
        score("det.map", say((A, "cat")), ONE, ties="best")


wild = st.floats()


@settings(max_examples=60, deadline=None)
@given(
    boxes=st.lists(
        st.tuples(st.tuples(*[st.one_of(wild, st.integers(0, 30))] * 4), st.sampled_from(["cat", "x"]), wild),
        max_size=5,
    )
)
def test_every_answer_has_a_value(boxes: Any) -> None:
    objects = [(list(box), label, confidence) for box, label, confidence in boxes]
    coco = ap(*objects, ties="coco")
    assert 0.0 <= ap(*objects, name="det.map_length") <= ap(*objects) <= coco + 1e-12
    assert coco <= 1.0
