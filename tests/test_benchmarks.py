"""The benchmarks: what they make of measured numbers, what they write, and a small real run of each."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a benchmark's module the way its script does: with benchmarks/ on the path."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def side(step: list[float], generation: list[float], memory: float, **more: Any) -> dict[str, Any]:
    training = [whole - part for whole, part in zip(step, generation, strict=True)]
    same = {"parameters": 7, "prompt_tokens": [27], "completion_tokens": [8]}
    times = {"step_seconds": step, "generation_seconds": generation, "training_seconds": training}
    return {"side": "x", **times, "peak_memory_mib": memory, "versions": {}, **same, **more}


def round_of(vs_trl: Any, scale: float) -> Any:
    """TRL is faster with micro-batches of 16 and smaller with 4; `scale` changes our times only."""
    return vs_trl.Round(
        ours=side([2.0 * scale, 4.0 * scale], [1.0 * scale, 1.0 * scale], 600.0),
        theirs={4: side([40.0, 40.0], [8.0, 8.0], 1000.0), 16: side([30.0, 30.0], [10.0, 10.0], 5000.0)},
    )


def test_each_ratio_takes_the_best_micro_batch_of_its_own(load: Any) -> None:
    vs_trl = load("vs_trl")
    one = round_of(vs_trl, 1.0)
    assert one.ratio("step_seconds") == pytest.approx(3.0 / 30.0)
    assert one.ratio("generation_seconds") == pytest.approx(1.0 / 8.0)
    assert one.ratio("training_seconds") == pytest.approx(2.0 / 20.0)
    assert one.ratio("peak_memory_mib") == pytest.approx(0.6)


def test_rows_hold_median_and_range_over_the_rounds(load: Any) -> None:
    vs_trl = load("vs_trl")
    rows = vs_trl.compare("default", [round_of(vs_trl, scale) for scale in (3.0, 1.0, 2.0)])
    by_metric = {row["metric"]: row for row in rows}
    assert len(by_metric) == len(rows)
    assert {row["workload"] for row in rows} == {"default"}
    assert by_metric["step_seconds_ratio"] == {
        "workload": "default",
        "metric": "step_seconds_ratio",
        "value": pytest.approx(0.2),
        "min": pytest.approx(0.1),
        "max": pytest.approx(0.3),
    }
    assert by_metric["peak_memory_ratio"]["value"] == pytest.approx(0.6)
    assert by_metric["vlrft_step_seconds"]["value"] == pytest.approx(6.0)
    assert by_metric["trl_best_step_seconds"]["value"] == 30.0
    assert by_metric["trl_micro_batch_4_step_seconds"]["value"] == 40.0
    assert by_metric["trl_best_peak_memory_mib"]["value"] == 1000.0


def test_the_table_states_the_ratio_both_ways(load: Any) -> None:
    vs_trl = load("vs_trl")
    text = vs_trl.table(vs_trl.compare("default", [round_of(vs_trl, 1.0)]))
    step = next(line for line in text.splitlines() if line.startswith("| step_seconds"))
    assert [cell.strip() for cell in step.strip("|").split("|")] == [
        "step_seconds", "3.00", "30.00", "40.00", "30.00", "0.100", "1/10.0", "0.100 to 0.100",
    ]  # fmt: skip
    assert len({len(line) for line in text.splitlines()}) == 1


def test_a_row_needs_a_measurement(load: Any) -> None:
    with pytest.raises(ValueError, match="default: nothing was measured for step_seconds_ratio"):
        load("_results").row("default", "step_seconds_ratio", [])


@pytest.mark.parametrize("what", ["parameters", "prompt_tokens", "completion_tokens"])
def test_sides_that_did_different_work_are_not_compared(load: Any, what: str) -> None:
    sides = load("_sides")
    sides.check_same_work(side([1.0], [0.5], 1.0), side([9.0], [1.0], 2.0))
    with pytest.raises(RuntimeError, match=f"different work: {what}"):
        sides.check_same_work(side([1.0], [0.5], 1.0), side([9.0], [1.0], 2.0, **{what: 0}))


def test_written_results_say_what_ran_and_not_where(load: Any, tmp_path: Path) -> None:
    results = load("_results")
    path = tmp_path / "new" / "out.json"
    results.write_results(path, "vs_trl", [results.row("default", "step_seconds_ratio", [0.2, 0.1])])
    text = path.read_text()
    content = json.loads(text)
    assert list(content) == ["name", "machine", "rows"]
    assert content["rows"] == [
        {"workload": "default", "metric": "step_seconds_ratio", "value": pytest.approx(0.15), "min": 0.1, "max": 0.2}
    ]
    assert content["machine"]["cores"] >= 1
    assert content["machine"]["memory_gib"] > 0
    assert content["machine"]["versions"]["torch"]
    assert not re.search(r'": "[^"]*/[a-z]', text), "a path in the results"


def test_a_missing_trl_is_said_with_the_next_step(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vs_trl = load("vs_trl")
    monkeypatch.setattr(vs_trl.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="trl is not installed: run `make bench`"):
        vs_trl.main([])


@pytest.mark.parametrize(
    ("option", "message"), [("5", "5 does not divide the 16 completions"), ("0", "not a positive number")]
)
def test_micro_batches_that_cannot_work_are_refused(load: Any, capsys: Any, option: str, message: str) -> None:
    with pytest.raises(SystemExit):
        load("vs_trl").parse_args(["--trl-micro-batches", option])
    assert message in capsys.readouterr().err


def test_a_failing_side_shows_its_error(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sides = load("_sides")
    (tmp_path / "broken.py").write_text("raise ValueError('no such workload')")
    monkeypatch.setattr(sides, "__file__", str(tmp_path / "_sides.py"))
    with pytest.raises(RuntimeError, match=r"broken.py ended with status 1:(.|\n)*no such workload"):
        sides.run_side("broken.py", load("_workloads").WORKLOADS["default"])


def test_one_group_is_one_micro_batch_in_every_workload(load: Any) -> None:
    """The budget holds one group and not two, by the counts that the default workload is known for (279 tokens)."""
    workloads = load("_workloads")
    template_tokens = 279 - (448 // 28) ** 2
    for workload in workloads.WORKLOADS.values():
        prompt = (workload["image_size"] // 28) ** 2 + template_tokens
        group = prompt + workload["num_generations"] * (workload["new_tokens"] - 1)
        assert group <= workloads.one_group_budget(workload) < 2 * group


def test_growth_sweeps_share_the_point_that_both_hold(load: Any) -> None:
    growth = load("growth")
    by_count, by_size = growth.sweeps(growth.BASE, quick=False)
    assert [w["num_generations"] for w in by_count.values()] == [2, 4, 8, 16]
    assert [w["image_size"] for w in by_size.values()] == [112, 224, 448, 672]
    assert set(by_count) & set(by_size) == {"G=8 image=448"}


def test_layouts_fit_their_cards_and_the_docs_have_the_table(load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    layouts = load("layouts")
    for layout in layouts.LAYOUTS:
        parts = layouts.seconds_of(layout)
        assert 0 < parts["card:training"] < 0.9 * 80 * 2**30, layout
        assert 0 < parts["card:sampling"] < 0.9 * 80 * 2**30, layout
    layouts.main()
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert "\n".join(table) in (BENCHMARKS.parent / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_gradients_go_round_at_every_micro_batch_where_they_are_cut_up(load: Any) -> None:
    layouts = load("layouts")
    by_method = {layout.learns: layout for layout in layouts.LAYOUTS if layout.train > 1}
    grown = {
        name: layouts.collective_bytes(one, 4) - layouts.collective_bytes(one, 3) for name, one in by_method.items()
    }
    assert grown["QLoRA"] == 0
    assert grown["zero2"] == 4 * by_method["zero2"].shape.parameters
    assert grown["zero3"] == 8 * by_method["zero3"].shape.parameters


def run_script(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_vs_trl_runs_both_sides(tmp_path: Path) -> None:
    if importlib.util.find_spec("trl") is None:
        pytest.skip("trl is not installed (it comes with the extra `bench`)")
    path = tmp_path / "vs_trl.json"
    run_script("vs_trl.py", "--quick", "--repeats", "1", "--trl-micro-batches", "8", "--json", str(path))
    content = json.loads(path.read_text())
    assert content["name"] == "vs_trl"
    assert str(tmp_path) not in path.read_text()
    by_metric = {row["metric"]: row for row in content["rows"]}
    assert by_metric["step_seconds_ratio"]["workload"] == "default-quick"
    assert 0 < by_metric["step_seconds_ratio"]["value"] < 10
    assert 0 < by_metric["peak_memory_ratio"]["value"] < 3


@pytest.mark.slow
def test_the_prompt_passes_as_often_for_16_completions_as_for_2(tmp_path: Path) -> None:
    path = tmp_path / "growth.json"
    done = run_script("growth.py", "--quick", "--steps", "1", "--json", str(path))
    assert "| completions per prompt |" in done.stdout
    rows = {(row["workload"], row["metric"]): row["value"] for row in json.loads(path.read_text())["rows"]}
    for what in ("vision_patches", "prompt_tokens"):
        counts = {g: rows[f"G={g} image=56", f"forwarded_{what}"] for g in (2, 16)}
        assert len(set(counts.values())) == 1, counts
    # 2 prompts, once in the rollout and once in training; 4 x 4 patches, 27 tokens
    assert rows["G=16 image=56", "forwarded_vision_patches"] == 2 * 2 * 16
    assert rows["G=16 image=56", "forwarded_prompt_tokens"] == 2 * 2 * 27
    assert rows["G=16 image=56", "forwarded_decoded_tokens"] == 2 * 16 * 7


def test_the_useful_work_counts_every_prompt_once(load: Any) -> None:
    import torch

    gpu, flops = load("gpu"), load("_gpu_flops")
    args = gpu.parse_args(["--toy", "--generations", "4"])
    family = gpu.build(gpu.TOY, torch.device("cpu"), "fp32")
    groups = gpu.make_groups(family, args, toy=True)
    found = flops.step_flops(family, groups)
    prompt, longest = len(groups[0].prompt.token_ids), gpu.sizes(args, True)[1]
    assert found.useful < found.copied < 4 * (prompt + longest) / prompt * found.useful
    # Twice the weights of the tower for every patch, and more for attention, forward and twice backward.
    patches = sum(int(group.prompt.mm["image_grid_thw"].prod()) for group in groups)
    tower = 2 * sum(p.numel() for n, p in family.model.named_parameters() if ".visual.blocks." in n and p.ndim == 2)
    vision = 3 * sum(flops._vision(family, group) for group in groups)
    assert 3 * tower * patches < vision < 2 * 3 * tower * patches


def test_gpu_refuses_a_side_that_computes_something_else(load: Any) -> None:
    import torch

    gpu, steps = load("gpu"), load("_gpu_steps")
    args = gpu.parse_args(["--toy", "--prompts", "1"])
    family = gpu.build(gpu.TOY, torch.device("cpu"), "fp32")
    groups = gpu.make_groups(family, args, toy=True)
    sides = [side for side in gpu.SIDES if steps.runnable(side, torch.device("cpu"), "fp32") is None]
    gpu.check(sides, family, groups, "fp32")
    with pytest.MonkeyPatch.context() as patched:
        whole = steps._packed
        patched.setattr(steps, "_packed", lambda part, groups, family: whole(part, [*groups, *groups], family))
        with pytest.raises(RuntimeError, match="does not compute what per sequence, sdpa does"):
            gpu.check(sides, family, groups, "fp32")


@pytest.mark.slow
def test_gpu_goes_on_where_a_side_runs_out_of_memory(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain sdpa while it is checked; then, with it left out, the other side while it is timed."""
    import torch

    gpu, steps, path = load("gpu"), load("_gpu_steps"), tmp_path / "gpu.json"
    options = ["--toy", "--cpu", "--prompts", "1", "--steps", "1", "--json", str(path)]
    plain, ours = "per sequence, sdpa, fp32", "shared prefix, two_part, fp32"

    def full(*args: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def found() -> set[tuple[str, str]]:
        return {(row["workload"], row["metric"]) for row in json.loads(path.read_text())["rows"]}

    with monkeypatch.context() as patched:
        patched.setattr(steps, "_per_sequence", full)
        gpu.main(options)
    assert {(plain, "out_of_memory"), (ours, "step_seconds")} <= found()
    said = capsys.readouterr()
    assert "two_part in fp32: compared with nothing, no other side fits" in said.err
    assert re.search(r"per sequence, sdpa +\| +fp32 \| out of memory", said.out)
    real = gpu.timed
    monkeypatch.setattr(
        gpu, "timed", lambda *args: full() if args[1].__qualname__.startswith("_shared") else real(*args)
    )
    gpu.main(options)
    assert {(ours, "out_of_memory"), (plain, "step_seconds")} <= found()


def test_four_ways_compares_the_hf_engine_with_the_trainer(load: Any) -> None:
    import torch

    from vlrft.config import TinyModelConfig
    from vlrft.engines.base import Request, SamplingParams
    from vlrft.engines.hf import HFEngine
    from vlrft.logprob import HeadOptions
    from vlrft.policy import Policy
    from vlrft.testing import make_group, make_prompt

    gpu, side = load("gpu"), load("_four_ways_side")
    family = gpu.build(TinyModelConfig(hidden_size=32, num_layers=2, vision_layers=2), torch.device("cpu"), "fp32")
    prompt = make_prompt(family, "one", [(56, 56)])
    (sampled,) = HFEngine(family).generate([Request(prompt=prompt, seeds=(1, 2))], SamplingParams(max_tokens=5))
    group = make_group(prompt, [completion.token_ids for completion in sampled])
    rollouts = [replace(rollout, completion=own) for rollout, own in zip(group.rollouts, sampled, strict=True)]
    group = replace(group, rollouts=tuple(rollouts))
    policy = Policy(family, HeadOptions(banned_ids=family.banned_ids))
    gap = side.sampled_gap(policy, [group])
    assert gap < 1e-4
    with torch.no_grad():
        family.lm_head.weight.mul_(1.1)
    assert side.sampled_gap(policy, [group]) > 1e-3


@pytest.mark.slow
def test_gpu_runs_at_toy_size(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    options = ["--precision", "fp32", "--precision", "bf16", "--steps", "1", "--tflops", "0.1"]
    done = run_script("gpu.py", "--toy", "--cpu", *options, "--json", str(path))
    assert "| shared prefix, two_part | " in done.stdout
    rows = {(row["workload"], row["metric"]): row["value"] for row in json.loads(path.read_text())["rows"]}
    for precision in ("fp32", "bf16"):
        ours, plain = f"shared prefix, two_part, {precision}", f"per sequence, sdpa, {precision}"
        assert rows[ours, "useful_share"] == rows[ours, "computed_share"] > 0
        assert rows[plain, "useful_share"] < rows[plain, "computed_share"]


@pytest.mark.slow
def test_plan_predicts_and_measures(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    run_script("plan.py", "--quick", "--workload", "large-images", "--json", str(path))
    rows = {row["metric"]: row["value"] for row in json.loads(path.read_text())["rows"]}
    assert 0 < rows["predicted_mib"] < 100
    assert rows["measured_mib"] > 0
