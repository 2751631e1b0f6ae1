"""math.verify: what is equal, what is not, the cheap ways, and the processes that compare."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.rewards import TargetError, check_target, math_pool, score
from vlrft.types import Score

pytest.importorskip("math_verify")


def say(answer: Any) -> str:
    return f"<think>thinking</think><answer>{answer}</answer>"


def judge(answer: Any, target: Any, **options: Any) -> Score:
    return score("math.verify", say(answer), target, **{"timeout_s": 60.0, **options})


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int) -> None:
        raise AssertionError("this comparison needs no process")

    monkeypatch.setattr("vlrft.rewards.math.pool", refuse)


@pytest.mark.usefixtures("no_processes")
@pytest.mark.parametrize(
    ("answer", "target", "value"),
    [
        ("5", "5", 1.0),
        ("5.0", 5, 1.0),
        ("0.5", r"\frac{1}{2}", 1.0),
        (r"\boxed{\frac{2}{4}}", 0.5, 1.0),
        ("$1,000$", "1000", 1.0),
        ("The answer is 5.", r"\boxed{5}", 1.0),
        ("6", "5", 0.0),
        ("-5", "5", 0.0),
        ("500", "5", 0.0),
        ("B", "B", 1.0),
        ("(B)", "B", 1.0),
        ("b", "B", 0.0),
        ("B", "5", 0.0),
        ("5", "B", 0.0),
        ("-x", "x^2", None),
        ("Dog.", "dog", 1.0),
        ("dog", r"\text{dog}", 1.0),
        ("god", "dog", 0.0),
        (r"x^2 + 1", "$x^2 + 1$", 1.0),
        (r"\boxed{3} no, \boxed{4}", "4", 1.0),
        (r"\boxed{4} no, \boxed{3}", "4", 0.0),
    ],
)
def test_cheap_comparisons(answer: str, target: Any, value: float | None) -> None:
    if value is None:
        with pytest.raises(AssertionError, match="needs no process"):
            judge(answer, target)
    else:
        assert judge(answer, target).value == value


@pytest.mark.parametrize(
    ("answer", "target", "value"),
    [
        ("(x+1)^2", "x^2+2x+1", 1.0),
        (r"\sqrt 2", r"\sqrt{2}", 1.0),
        ("$1024$", "2^{10}", 1.0),
        ("0.333333", r"\frac{1}{3}", 1.0),
        ("x = 5", "5", 1.0),
        ("so it is x = 5.", "5", 1.0),
        (r"\{2, 1\}", r"\{1, 2\}", 1.0),
        (r"5 \leq x", r"x \geq 5", 1.0),
        ("(2, 1)", "(1, 2)", 0.0),
        ("1 or 5", "5", 0.0),
        ("3, 4, 5", "5", 0.0),
        (r"\pm 5", "5", 0.0),
        ("-x", "x+1", 0.0),
        ("3.14", r"\pi", 0.0),
        ("2abc", "2xyz", 0.0),
    ],
)
def test_the_library_decides_the_rest(answer: str, target: str, value: float) -> None:
    assert judge(answer, target) == Score(value=value, parts={"math.verify": value})


@pytest.mark.usefixtures("no_processes")
@pytest.mark.parametrize(
    ("completion", "flags"),
    [
        ("", ("no_answer",)),
        (say("  "), ("no_answer",)),
        ("<think>5</think>", ("no_answer",)),
        ("5", ("no_answer",)),
        ("<think><answer>5</answer></think>", ("no_answer",)),
        (say("$$"), ("unparsable",)),
        (say("."), ("unparsable",)),
        (say(r"\boxed{}"), ("unparsable",)),
        (say("5" * 2001), ("unparsable",)),
        (say("{" * 1_000_000), ("unparsable",)),
        ("\uff1canswer\uff1e5\uff1c/answer\uff1e", ("no_answer",)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_worth_nothing_without_a_process(completion: str, flags: tuple[str, ...]) -> None:
    found = score("math.verify", completion, "5")
    assert (found.value, found.flags) == (0.0, flags)


@pytest.mark.parametrize("answer", ["nan", "no idea", "{" * 300, r"\frac{" * 100, "((((", "9" * 400, "\u0665 or 6"])
def test_garbage_is_worth_nothing(answer: str) -> None:
    assert judge(answer, "5").value == 0.0


def test_several_boxed_answers_are_flagged_and_the_last_counts() -> None:
    assert judge(r"\boxed{4} or \boxed{5}", "5").flags == ("several_answers",)
    assert judge(r"\boxed{5} as said: \boxed{5}", "5").flags == ()


def test_a_number_in_the_reasoning_does_not_count() -> None:
    assert score("math.verify", "<think>5</think><answer>it is as above</answer>", "5").value == 0.0


def test_an_endless_expression_ends_its_process_only() -> None:
    assert judge("(x+1)^2", "x^2+2x+1").value == 1.0
    started = time.monotonic()
    found = judge("9^{9^{9^{9}}}", "5", timeout_s=0.3)
    assert (found.value, found.flags) == (0.0, ("sandbox_timeout",))
    assert time.monotonic() - started < 30
    assert judge("(x+2)^2", "x^2+4x+4").value == 1.0


@pytest.mark.slow
def test_a_process_that_dies_is_replaced() -> None:
    assert judge("(x+3)^2", "x^2+6x+9").value == 1.0
    (worker,) = math_pool.pool(1)._started
    worker.process.kill()
    worker.process.wait()
    assert judge("(x+4)^2", "x^2+8x+16").value == 1.0


@pytest.mark.slow
def test_a_crash_while_comparing_is_a_flag() -> None:
    pool = math_pool.Pool(1)
    verdicts: list[tuple[bool, str | None]] = []
    endless = r"\boxed{9^{9^{9^9}}}"
    thread = threading.Thread(target=lambda: verdicts.append(pool.ask(r"\boxed{5}", endless, 60.0)))
    thread.start()
    while not pool._started or not pool._started[0]._ready:
        time.sleep(0.01)
    pool._started[0].process.kill()
    thread.join(30)
    pool.close()
    assert verdicts == [(False, "sandbox_crash")]


@pytest.mark.slow
def test_from_threads_and_from_a_forked_child() -> None:
    values: list[float | None] = []
    threads = [
        threading.Thread(target=lambda i=i: values.append(judge(f"(x+{i})(x-{i})", f"x^2-{i * i}").value))
        for i in range(2, 8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == [1.0] * 6
    code = (
        "import os, sys\n"
        "from vlrft.rewards import score\n"
        "ask = lambda: score('math.verify', '<answer>(x+1)^2</answer>', 'x^2+2x+1', timeout_s=60.0).value\n"
        "assert ask() == 1.0\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if ask() == 1.0 else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert ask() == 1.0\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_processes_end_with_their_owner() -> None:
    code = (
        "from vlrft.rewards import math_pool, score\n"
        "score('math.verify', '<answer>(x+1)^2</answer>', 'x^2+2x+1', timeout_s=60.0)\n"
        "print(math_pool.pool(1)._started[0].process.pid)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    math_pool.require_math_verify.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'vlrft\[rewards\]'"):
        check_target("math.verify", "5")


@pytest.mark.parametrize("target", [None, "", "  ", "$$", math.nan, math.inf, True, ["5"], "5" * 2001])
def test_bad_targets_stop_before_any_completion(target: Any) -> None:
    with pytest.raises(TargetError, match="LaTeX or text of 1 to 2000 characters, got"):
        check_target("math.verify", target)
    with pytest.raises(TargetError, match="LaTeX or text of 1 to 2000 characters, got"):
        score("math.verify", say("5"), target)


def test_options_are_checked() -> None:
    for options in ({"timeout_s": 0.0}, {"timeout_s": math.inf}, {"workers": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            judge("5", "5", **options)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="0123456789./-", min_size=1, max_size=12))
def test_an_answer_equals_itself(text: str) -> None:
    if text.strip(".$ "):
        assert judge(text, text).value == 1.0
