"""Blocks of tags as an exact format, and what of a text can be seen."""

from __future__ import annotations

import pytest

from vlrft.parse import BOXED, match_blocks, visible_length


@pytest.mark.parametrize(
    ("text", "blocks", "contents"),
    [
        (" <think>a</think>\n<answer> b </answer>\n", ("think", "answer"), ["a", "b"]),
        ("<answer>b</answer>", ("answer",), ["b"]),
        (r"<think>a</think> \boxed{\frac{1}{2}}", ("think", BOXED), ["a", r"\frac{1}{2}"]),
        ("<think>a</think><tool_response>x <answer>z</answer></tool_response><answer>b</answer>", ("think", "answer"),
         ["a", "b"]),
        ("<caption>c</caption><think>a</think>", ("caption", "think"), ["c", "a"]),
        ("x<think>a</think><answer>b</answer>", ("think", "answer"), None),
        ("<think>a</think>x<answer>b</answer>", ("think", "answer"), None),
        ("<think>a</think><answer>b</answer>x", ("think", "answer"), None),
        ("<answer>b</answer><think>a</think>", ("think", "answer"), None),
        ("<think>a<answer>b</answer></think>", ("think", "answer"), None),
        ("<think>a</think><answer>b</answer><answer>b</answer>", ("think", "answer"), None),
        ("<think><think>a</think><answer>b</answer>", ("think", "answer"), None),
        ("<think>a</think><answer><think>c</think></answer>", ("answer",), None),
        (r"<think>a</think>\boxed{1}\boxed{2}", ("think", BOXED), None),
        (r"<think>a</think>\boxed{1", ("think", BOXED), None),
        ("<thi<tool_response></tool_response>nk>a</think><answer>b</answer>", ("think", "answer"), None),
    ],
)  # fmt: skip
def test_match_blocks(text: str, blocks: tuple[str, ...], contents: list[str] | None) -> None:
    assert match_blocks(text, blocks) == contents


@pytest.mark.parametrize(("text", "length"), [(" ab c ", 4), ("", 0), (" \n", 0), ("\u200b\u2060", 0), ("\u200ba", 2)])
def test_visible_length(text: str, length: int) -> None:
    assert visible_length(text) == length
