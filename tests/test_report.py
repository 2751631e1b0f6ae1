"""The run report: one file, nothing loaded, nothing injected, boxes where they belong."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlrft import report_images, report_rollouts
from vlrft import report_series as series
from vlrft.report import ReportError, write_report
from vlrft.report_text import duration, script_json, short

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><!-- \u2028 \ud800"
CONFIG = """\
# recipe: detection/fake
model: {model_name_or_path: org/some-model}
data: {task: grounding, output_mode: think}
eval: {metrics: [box.iou]}
stages:
- {kind: sft, data: {output_mode: direct}}
- {kind: grpo}
"""


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rollout(text: str, reward: float, **more: Any) -> dict[str, Any]:
    score = {"value": reward, "parts": {"box.iou": reward, "format.think_answer": None}, "flags": []}
    row = {"text": text, "token_ids": [1, 2], "logprobs": [0.0, 0.0], "finish_reason": "stop", "policy_version": 3}
    return row | {"reward": reward, "advantage": 0.5, "score": score} | more


def group(sample: str, *rollouts: dict[str, Any], **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"sample_id": sample, "task": "grounding", "question": "where?", "images": ["scene.png"]}
    row |= {"target": [10.0, 20.0, 50.0, 80.0], "target_space": "abs_original", "coord_space": "norm_1000"}
    row |= {"image_sizes": [[200, 100]], "input_sizes": [[56, 28]], "meta": {}}
    return row | {"rollouts": list(rollouts)} | more


def train_row(step: int, **values: float | None) -> dict[str, Any]:
    return {"stage": "grpo", "kind": "train", "step": step, "global_step": step, **values}


def eval_row(stage: str, step: int, global_step: int, iou: float) -> dict[str, Any]:
    row = {"stage": stage, "kind": "eval", "step": step, "global_step": global_step}
    return row | {"eval/box.iou": iou, "eval/n": 16}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run = tmp_path / "my-run"
    run.mkdir()
    (run / "config.yaml").write_text(CONFIG)
    Image.new("RGB", (200, 100), "white").save(run / "scene.png")
    rows = [eval_row("sft", 0, 0, 0.1), eval_row("sft", 5, 5, 0.25), eval_row("grpo", 0, 5, 0.25)]
    timings = {"time/gen": 2.0, "time/train": 1.0, "time/step": 4.0}
    rows += [train_row(i, **{"reward/mean": i / 40, "loss": 0.1}, **timings) for i in range(1, 41)]
    write_lines(run / "metrics.jsonl", [*rows, eval_row("grpo", 40, 45, 0.75)])
    good = "<think>t</think><answer>[100, 200, 300, 900]</answer>"
    groups = [group("a", rollout(good, 0.9), rollout(HOSTILE, 0.0), question=HOSTILE), group("b", rollout(good, 0.5))]
    for step in (1, 40):
        write_lines(run / "rollouts" / f"grpo-{step:06d}.jsonl", groups)
    for stage, step in (("sft", 0), ("grpo", 40)):
        write_lines(
            run / "rollouts" / f"eval-{stage}-{step}.jsonl", [group("e", rollout("[0, 0, 500, 500]", step / 40))]
        )
    return run


class Page(HTMLParser):
    """Elements of a page as a browser sees them: contents of scripts are no markup."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def data_of(html: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert match
    data: dict[str, Any] = json.loads(match[1])
    return data


def render(run: Path) -> tuple[str, dict[str, Any]]:
    html = write_report(run).read_text("utf-8")
    return html, data_of(html)


def test_page_is_self_contained_and_injection_free(run_dir: Path) -> None:
    (run_dir / "skipped.jsonl").write_text(json.dumps({"where": HOSTILE, "reason": HOSTILE}) + "\n")
    (run_dir / "summary.json").write_text(json.dumps({HOSTILE: HOSTILE, "seconds": {"sft": 1.5}}))
    html, data = render(run_dir)
    tags = Page(html).tags
    assert not [name for name, _ in tags if name in ("img", "link", "iframe", "object", "base")]
    assert not [attrs for _, attrs in tags if {"src", "href"} & attrs.keys() or any(a.startswith("on") for a in attrs)]
    policies = [attrs["content"] for _, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert "default-src 'none'" in str(policies[0])
    assert str(policies[0]).count("'sha256-") == 3 == [name for name, _ in tags].count("script") - 1
    assert HOSTILE.replace("\ud800", "?") in [g["question"] for g in data["groups"]]
    assert "seconds.sft" in html


def test_boxes_are_in_pixels_of_the_original_image(run_dir: Path) -> None:
    _, data = render(run_dir)
    shown = next(g for g in data["groups"] if g["id"] == "a")
    assert shown["size"] == [200, 100]
    assert shown["truth"] == [[10.0, 20.0, 50.0, 80.0]]
    assert [r["boxes"] for r in shown["rollouts"]] == [[[20.0, 20.0, 60.0, 90.0]], []]


def test_output_mode_of_a_stage_decides_how_its_answers_are_read(run_dir: Path) -> None:
    _, data = render(run_dir)
    boxes = {g["stage"]: g["rollouts"][0]["boxes"] for g in data["groups"] if g["kind"] == "eval"}
    assert boxes == {"sft": [[0.0, 0.0, 100.0, 50.0]], "grpo": []}, "direct text is no answer in think mode"


def test_target_and_answer_in_other_spaces(tmp_path: Path) -> None:
    boxed = group("a", rollout("<answer>[28, 14, 56, 28]</answer>", 1.0), coord_space="abs_input")
    scaled = boxed | {"target": {"bbox_2d": [0.5, 0.5, 1, 1]}, "target_space": "norm_1", "images": [None]}
    unplaced = boxed | {"input_sizes": [], "sample_id": "unplaced"}
    lost = group("nan", rollout("<answer>[NaN, 1, 2, 3]</answer>", 0.0), target="a label")
    (tmp_path / "config.yaml").write_text("{}")
    write_lines(tmp_path / "rollouts" / "grpo-000001.jsonl", [scaled, unplaced, lost])
    notes: series.Notes = Counter()
    store = report_images.ImageStore(notes=notes)
    groups = {g["id"]: g for g in report_rollouts.load_groups(tmp_path, store, lambda stage: "think", notes)}
    assert groups["a"]["truth"] == groups["a"]["rollouts"][0]["boxes"] == [[100.0, 50.0, 200.0, 100.0]]
    assert groups["unplaced"]["rollouts"][0]["boxes"] == groups["nan"]["rollouts"][0]["boxes"] == []
    assert groups["nan"]["truth"] == []
    assert any("input_size" in note for note in notes)
    assert any("not finite" in note for note in notes)


def test_header_tells_the_story(run_dir: Path) -> None:
    html, _ = render(run_dir)
    text = re.sub(r"<[^>]+>|\s+", " ", html.partition("<main>")[0].partition("<body>")[2])
    for fact in ("my-run", "org/some-model", "grounding", "detection/fake"):
        assert fact in text
    hero = re.findall(r'class="(?:big|delta up)">([^<]+)<', html)
    assert hero == ["0.100", "+0.150", "0.250", "+0.500", "0.750"]
    assert "0.138 → 0.887" in html, "training reward of the first and last 10 steps"


def test_reward_edges_never_overlap() -> None:
    rows = [train_row(i, **{"reward/mean": float(i)}) for i in range(1, 6)]
    assert series.reward_edges(rows) == (1.5, 4.5, 2)
    assert series.reward_edges(rows[:1]) is None


def test_milestones_without_an_evaluation_before_the_stage() -> None:
    found = series.milestones([eval_row("grpo", 10, 10, 0.2), eval_row("grpo", 20, 20, 0.4)])
    assert [(m.label, m.values["box.iou"]) for m in found] == [("first evaluation", 0.2), ("after grpo", 0.4)]
    assert series.milestones([train_row(1, loss=1.0)]) == []


def test_metrics_survive_a_killed_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [train_row(1, loss=1.0), train_row(2, loss=2.0), train_row(2, loss=3.0), {"note": "no step"}]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"stage": "gr')
    notes: series.Notes = Counter()
    assert series.column(series.load_metrics(path, notes), "loss") == [1.0, 3.0], "of equal steps the later row counts"
    assert notes == {"unreadable lines in metrics.jsonl": 1, "lines without stage, kind or step in metrics.jsonl": 1}


def test_curves_are_smoothed_thinned_and_keep_gaps() -> None:
    assert series.moving_average([1.0, None, 3.0, 5.0], 2) == [1.0, 1.0, 3.0, 4.0]
    assert series.thin([1.0, 3.0, None, None, 5.0], 3) == [2.0, None, 5.0]
    assert len(series.thin([1.0] * 12_345)) <= series.MAX_POINTS
    assert series.number(float("nan")) is series.number(10**400) is series.number(True) is None


def test_charts_leave_out_what_is_zero_throughout() -> None:
    charts, quiet = series.small_charts([train_row(1, loss=0.5, skipped_steps=0), train_row(2, loss=None)])
    assert [(c["title"], c["series"][0]["y"]) for c in charts] == [("Loss", [0.5, None])]
    assert quiet == ["skipped steps"]


def test_timing_adds_up() -> None:
    rows = [train_row(1, **{"time/gen": 2.0, "time/train": 1.0, "time/step": 4.0})]
    rows.append(train_row(2, **{"time/gen": 2.0, "time/save": 1.0, "time/step": 4.0}))
    timing = series.timing(rows)
    assert timing
    table = {row["name"]: (row["total"], row["mean"], row["share"]) for row in timing[1]}
    assert table == {
        "gen": (4.0, 2.0, 0.5),
        "other": (2.0, 1.0, 0.25),
        "train": (1.0, 0.5, 0.125),
        "save": (1.0, 0.5, 0.125),
    }
    assert series.timing([train_row(1, loss=1.0)]) is None


def test_steps_groups_rollouts_and_text_are_capped(tmp_path: Path) -> None:
    many = [rollout("x" * 10_000, i / 40) for i in range(40)]
    wide = group("wide", *many, images=[])
    narrow = [group(f"n{i}", rollout("x", 0.5), images=[]) for i in range(20)]
    for step in range(1, 31):
        write_lines(tmp_path / "rollouts" / f"grpo-{step:06d}.jsonl", [*narrow, wide])
    notes: series.Notes = Counter()
    groups = report_rollouts.load_groups(tmp_path, report_images.ImageStore(notes=notes), lambda stage: "think", notes)
    steps = sorted({g["step"] for g in groups})
    assert (len(steps), steps[0], steps[-1]) == (report_rollouts.STEPS_PER_STAGE, 1, 30)
    assert len(groups) == report_rollouts.STEPS_PER_STAGE * report_rollouts.TRAIN_GROUPS_PER_STEP
    first = groups[0]
    assert (first["id"], first["total"], len(first["rollouts"])) == ("wide", 40, report_rollouts.MAX_ROLLOUTS)
    assert [first["rollouts"][i]["reward"] for i in (0, -1)] == [0.975, 0.0], "best and worst stay"
    assert len(first["rollouts"][0]["text"]) < report_rollouts.MAX_TEXT + 50


def test_text_budget_drops_later_groups_of_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        rows = [group(str(i), rollout("x" * 1000, i), rollout("", 0.0), images=[]) for i in range(4)]
        write_lines(tmp_path / "rollouts" / f"grpo-{step:06d}.jsonl", rows)
    monkeypatch.setattr(report_rollouts, "TEXT_BUDGET", 8000)
    notes: series.Notes = Counter()
    groups = report_rollouts.load_groups(tmp_path, report_images.ImageStore(notes=notes), lambda stage: "think", notes)
    assert [(g["step"], g["id"]) for g in groups] == [(1, "3"), (1, "2"), (1, "1"), (2, "3"), (2, "2")]
    assert notes == {"groups left out to keep this page small": 3}


def test_evaluations_follow_the_same_samples(tmp_path: Path) -> None:
    names = [f"s{i}" for i in range(20)]
    for stage, step, order in (("grpo", 0, names), ("grpo", 10, names[::-1])):
        path = tmp_path / "rollouts" / f"eval-{stage}-{step}.jsonl"
        write_lines(path, [group(n, rollout("x", 0.0), images=[]) for n in order])
    notes: series.Notes = Counter()
    groups = report_rollouts.load_groups(tmp_path, report_images.ImageStore(notes=notes), lambda stage: "think", notes)
    by_step = {step: {g["id"] for g in groups if g["step"] == step} for step in (0, 10)}
    assert by_step[0] == by_step[10] == set(names[: report_rollouts.EVAL_GROUPS_PER_STEP])


def test_pictures_are_small_once_and_within_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.effect_noise((1200, 600), 60).save(tmp_path / "big.jpg")
    Image.new("RGB", (84, 84), "red").save(tmp_path / "tiny.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    notes: series.Notes = Counter()
    store = report_images.ImageStore(notes=notes)
    keys = [
        store.add(n, tmp_path, None) for n in ("big.jpg", "tiny.png", str(tmp_path / "big.jpg"), "broken.png", "gone")
    ]
    assert keys == [0, 1, 0, None, None]
    assert store.size_of("big.jpg", tmp_path) == (1200, 600)
    assert [uri.partition(";")[0] for uri in store.uris] == ["data:image/jpeg", "data:image/png"]
    assert sum(n for note, n in notes.items() if "unreadable" in note) == 2
    monkeypatch.setattr(report_images, "IMAGE_BUDGET", store.spent)
    Image.new("RGB", (50, 50), "blue").save(tmp_path / "late.png")
    assert store.add("late.png", tmp_path, None) is None
    assert notes["pictures left out to keep this page small"] == 1


@pytest.mark.parametrize("missing", ["config.yaml", "metrics.jsonl", "rollouts", "scene.png"])
def test_report_of_an_unfinished_run(run_dir: Path, missing: str) -> None:
    target = run_dir / missing
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    html, _ = render(run_dir)
    assert "my-run" in html


def test_report_of_sft_alone_with_one_step(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "metrics.jsonl", [{"stage": "sft", "kind": "train", "step": 1, "loss": 2.0, "time/gen": 0.0}]
    )
    html, data = render(tmp_path)
    assert data["groups"] == []
    assert [c["title"] for c in data["stages"][0]["small"]] == ["Loss"]
    assert "No held-out evaluation yet" in html


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"no run folder .*gone"):
        write_report(tmp_path / "gone")
    with pytest.raises(ReportError, match=r"neither config\.yaml nor metrics\.jsonl"):
        write_report(tmp_path)
    (tmp_path / "config.yaml").write_text("- a\n- list\n")
    with pytest.raises(ReportError, match="should hold keys and values, but holds a list"):
        write_report(tmp_path)
    (tmp_path / "config.yaml").write_text("model: {")
    with pytest.raises(ReportError, match=r"config\.yaml is not readable"):
        write_report(tmp_path)


def test_numbers_and_json_as_text() -> None:
    assert [short(v) for v in (None, 0.0, 0.12345, 1e-6, 1234.56, 7, "x")] == [
        "–",
        "0.000",
        "0.123",
        "1e-06",
        "1,234.6",
        "7",
        "x",
    ]
    assert [duration(s) for s in (0.0305, 12.34, 245, 7380)] == ["30.5 ms", "12.3 s", "4 min 05 s", "2 h 03 min"]
    escaped = script_json({"text": HOSTILE + "&"})
    assert not set("<>&") & set(escaped)
    assert json.loads(escaped) == {"text": HOSTILE.replace("\ud800", "?") + "&"}


def test_import_is_cheap() -> None:
    code = "import sys, vlrft.report; print([m for m in ('torch', 'plotly', 'jinja2', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine to open the page with")
def test_page_in_a_browser(run_dir: Path, tmp_path: Path) -> None:
    page = write_report(run_dir)
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    options += (
        " --disable-component-update --disable-sync --virtual-time-budget=8000 --enable-logging=stderr --dump-dom"
    )
    command = [str(CHROMIUM), *options.split(), f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=120)
    assert "CONSOLE" not in done.stderr, "a script failed or the security policy stopped something"
    tags = Page(done.stdout).tags
    classes = Counter(c for _, attrs in tags for c in str(attrs.get("class") or "").split())
    assert classes["main-svg"] > 0, "plotly drew its curves"
    assert classes["group"] == 6
    assert (classes["truth"], classes["pred"]) == (6 + 1 + 2, 5), "true boxes also in the gallery and in two legends"
    assert classes["shot"] == 1
    assert "my-run" in done.stdout.partition("</title>")[0]
    assert not [attrs for _, attrs in tags if "onerror" in attrs]
