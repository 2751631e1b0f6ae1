"""The pages of docs/rewards/, one per family and an index, made from the docstrings by `vlrft rewards docs`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from vlrft.rewards.base import FLAGS
from vlrft.rewards.describe import Described, default_of, describe
from vlrft.rewards.table import REWARDS

INDEX = "README.md"
_HEADINGS = {
    "Target": "Target",
    "Meta": "Meta",
    "Answer": "How the answer is read",
    "Guards": "What would defeat it, and what stops that",
    "Source": "Source",
}
_MADE = "<!-- Made from the docstrings by `vlrft rewards docs`; edit those. -->"


def pages() -> dict[str, str]:
    """File name to Markdown text."""
    families: dict[str, list[Described]] = {}
    for name in REWARDS:
        described = describe(name)
        families.setdefault(page_name(described), []).append(described)
    return {INDEX: _index(families), **{page: _page(members) for page, members in families.items()}}


def page_name(described: Described) -> str:
    """`box.md` for vlrft.rewards.box, `compat_gui_r1.md` for vlrft.rewards.compat.gui_r1."""
    return described.module.removeprefix("vlrft.rewards.").replace(".", "_") + ".md"


_INTRODUCTION = """\
# Rewards

Every reward is a function of a completion, a target and meta. A bad completion is worth 0 and has a flag; a bad target
is an error, raised before compute is spent. Values lie in [0, 1], but for some of `compat`, whose ranges are the peer's
own. `vlrft rewards show NAME` prints the same as these pages, `vlrft rewards ls PREFIX` lists a family. How several
rewards become one number: [composing.md](../composing.md).

## Which part of a completion is judged

The output mode decides, `meta["output_mode"]` (`data.output_mode` in a recipe). A completion without the tags of its
mode has no answer: it is worth 0 and has the flag `no_answer`.

| output mode | form | what is judged |
| --- | --- | --- |
| `think` (default) | `<think>...</think><answer>...</answer>` | the last complete answer behind the last `</think>` |
| `answer_then_think` | `<answer>...</answer><think>...</think>` | the first answer |
| `adaptive` | with tags or without | with tags as in `think`, without as in `direct` |
| `direct` | plain text | the whole completion |

So plain answers are scored by `score(..., output_mode="direct")`, or `--meta '{{"output_mode": "direct"}}'` on the
command line. The reasoning may be missing in every mode. For the warm-up of base models `lenient_extraction` (a key of
meta, or `rewards.lenient_extraction` in a recipe) takes an answer that is not closed, or else all text behind the
reasoning, and says so with the flag `lenient`.

Of several answer blocks one counts, as the table says. Where they differ (in normal form, white space left out), the
value of every reward that judges the answer is divided by the number of different answers; the flag is
`several_answers`. `compat.*` and the rewards that judge the form or other blocks do without this.

## Options and meta

Options come by keyword, by `--options` or by `kwargs` in a recipe. A key of meta that is the name of an option, and
that the page does not name under Meta, sets the option as well, in the row that has it; an option that is given
otherwise wins over it. Numbers may be text in meta, as a CSV file has them. Every other key of meta is left alone; one
that is nearly the name of a documented key is told of once.

## Flags

{flags}

## What the marks mean

*a group*: compares all completions of a sample; alone it is scored as a group of one, and its page says what it needs
to know of the others. *an embedder*: the option `embedder` must be given. *num_tokens*: this key of meta must be there.
*the extra*: install it as the README says.
"""

_FLAGS = {
    "no_answer": "no answer in the tags of the output mode, or an empty one",
    "unparsable": "an answer that is not in a form that the reward reads",
    "lenient": "the answer was read without its closed tags, as `lenient_extraction` allows",
    "several_answers": "more answers than one, in tags or in the answer",
    "invalid_box": "a box without area, inverted, or not of four numbers",
    "out_of_range": "numbers outside of the image, the video, or what is allowed",
    "non_finite": "NaN or an infinity",
    "unknown_label": "a label, option or action that does not exist",
    "over_length": "more tokens than the limit, or longer than the reward reads",
    "sandbox_timeout": "a program that ran out of time",
    "sandbox_memory": "a program that ran out of memory",
    "sandbox_denied": "a program that tried something forbidden",
    "sandbox_crash": "a program that failed",
}
"""What each flag says of a completion."""


def _index(families: dict[str, list[Described]]) -> str:
    flags = "\n".join(["| flag | |", "| --- | --- |", *(f"| `{flag}` | {_FLAGS[flag]} |" for flag in FLAGS)])
    lines = [_MADE, "", _INTRODUCTION.format(flags=flags).rstrip()]
    for page, members in families.items():
        heading = f"## [{members[0].title.rstrip('.')}]({page})"
        lines += ["", heading, "", "| reward | | needs |", "| --- | --- | --- |"]
        lines += [f"| `{d.name}` | {_cell(d.summary)} | {_cell(', '.join(d.needs))} |" for d in members]
    return "\n".join(lines) + "\n"


def _page(members: Sequence[Described]) -> str:
    first = members[0]
    lines = [_MADE, "", f"# {first.title.rstrip('.')}"]
    for key, heading in _HEADINGS.items():
        if key in first.family:
            lines += ["", f"**{heading}.** {_sentence(first.family[key])}"]
    if first.module in _SUPPLEMENTS:
        lines += ["", *_SUPPLEMENTS[first.module]()]
    for described in members:
        lines += ["", f"## `{described.name}`", "", _prose(described.summary), "", *_body(described)]
        lines += _options(described)
        if described.example is not None:
            example = described.example
            lines += ["", "```python", f"{example.source}.value  # {example.value:.6g}", "```"]
    return "\n".join(lines) + "\n"


def _options(described: Described) -> list[str]:
    """Needs in a line, and a table of the options with types and defaults."""
    lines = ["", f"Needs {_prose(', '.join(described.needs))}."] if described.needs else []
    if described.options:
        lines += ["", "| option | type | |", "| --- | --- | --- |"]
        lines += [f"| `{o.name}` | {_cell(o.kind)} | {_cell(default_of(o))} |" for o in described.options]
    return lines


def _actions() -> list[str]:
    """What actions there are, for the page of gui.action."""
    from vlrft.rewards.gui_action import ACTIONS

    lines = ["**Actions.**", "", "| action | argument | also called |", "| --- | --- | --- |"]
    for name, (argument, synonyms) in ACTIONS.items():
        lines.append(f"| `{name}` | {argument} | {', '.join(f'`{s}`' for s in synonyms)} |")
    return lines


CHART_DUMP = """\
{
  "text": ["Sales", "a", "b"],
  "type": ["bar"],
  "layout": [[1, 1, 0, 0, 0, 0]],
  "colour": [["bar", "#1f77b4"]],
  "legend": ["2024"],
  "data": [
    {
      "type": "bar", "points": [[0, 0, 3], [1, 0, 4]],
      "axes": [0, 0, 0], "colours": ["#1f77b4"], "x": [["a", 0], ["b", 1]]
    }
  ],
  "roles": [["title", 0, 0, 0], ["xtick", 0, 0, 0], ["xtick", 0, 0, 0]],
  "ties": [[[0, -1]]]
}"""
"""A recorded chart, for the page of chart.render."""


def _chart_dump() -> list[str]:
    return [
        "The first of these rewards in a process starts the sandbox, which imports matplotlib and draws once: several",
        "seconds (6.5 s on two cores of an AMD EPYC, 17 s with eight busy processes on them). A render takes tenths of",
        "a second from then on; the sandbox goes on until the process ends.",
        "",
        "A program is recorded once, and the dump used as the target of many completions:",
        "",
        "```python",
        "from vlrft.rewards.chart import recorded",
        "",
        "target = recorded(\"import matplotlib.pyplot as plt\\nplt.bar(['a', 'b'], [3, 4], label='2024')\")",
        "```",
        "",
        "A dump holds six lists that are judged, and two that say what belongs together; one that is missing is not",
        "judged:",
        "",
        "```json",
        *CHART_DUMP.splitlines(),
        "```",
        "",
        "`text`: every text but the legend's. `type`: one entry per series. `layout`: of each axes the numbers of rows",
        "and columns of its grid, and its first and last row, first and last column, from 0. `colour`: type and colour",
        "of each series. `legend`: its texts. `data`: of each series its points, for bars position, low and high end,",
        "for pies the share; where it is (figure, row and column, from 0); its colours, one, or one for each point, or",
        "else the distinct ones; under `x` and `y` the names of categories and their positions, under `names` those of",
        "slices. `roles`: what each text is (title, xlabel, xtick, annotation and so on; `far` on the second side of",
        "twin axes) and where, with -1 for no axes. `ties`: of each legend entry the numbers of its series and points,",
        "-1 for all points.",
        "",
        "Dumps of before, without `roles`, `ties` and what a series has besides `type` and `points`, are read as well.",
        "What they do not say is not judged: texts, legend and colours are then compared as sets. Record them afresh.",
    ]


_SUPPLEMENTS: dict[str, Callable[[], list[str]]] = {
    "vlrft.rewards.gui_action": _actions,
    "vlrft.rewards.chart": _chart_dump,
}
"""What pages show besides docstrings, by module."""


def _body(described: Described) -> list[str]:
    """Formula and range as a block of text as it is written; the other paragraphs as prose."""
    lines: list[str] = []
    for paragraph in described.body.split("\n\n"):
        verbatim = paragraph.startswith(("Formula:", "Range:"))
        lines += ["```text", paragraph, "```", ""] if verbatim else [_prose(paragraph), ""]
    return lines[:-1]


def _prose(text: str) -> str:
    """Docstring prose in Markdown: what stands outside of backticks is not markup."""
    pieces = text.split("`")
    for i in range(0, len(pieces), 2):
        for mark in "<*_":
            pieces[i] = pieces[i].replace(mark, f"\\{mark}")
    return "`".join(pieces)


def _sentence(text: str) -> str:
    """A paragraph that begins with a capital, or with the name of a reward, which has none."""
    named = next((name for name in REWARDS if re.match(rf"{re.escape(name)}\b", text)), None)
    if named is not None:
        return _prose(f"`{named}`{text.removeprefix(named)}")
    return _prose(text[:1].upper() + text[1:])


def _cell(text: str) -> str:
    return _prose(text).replace("|", "\\|")
