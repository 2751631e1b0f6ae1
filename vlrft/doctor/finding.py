"""What an examination finds, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "missing", "differs", "broken"]
"""`missing`: not there, which costs a feature. `differs`: works, but is not what was tested, or is scarce. `broken`: it
is installed and does not work; only this fails the examination."""

GROUPS = ("machine", "accelerator", "libraries", "features")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line."""

    group: str
    """One of GROUPS."""
    name: str
    state: State
    found: str
    costs: str = ""
    """What cannot be done, or not as tested, because of it."""
    mend: str = ""
    """The command, or the step, that changes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything that was found."""

    findings: tuple[Finding, ...]

    @property
    def broken(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.state == "broken"]

    def as_json(self) -> dict[str, Any]:
        return {"ok": not self.broken, "findings": [asdict(finding) for finding in self.findings]}

    def as_text(self) -> str:
        lines: list[str] = []
        width = max(len(finding.name) for finding in self.findings)
        for group in GROUPS:
            lines += [group, *_lines([f for f in self.findings if f.group == group], width), ""]
        counts = {state: sum(f.state == state for f in self.findings) for state in ("missing", "differs", "broken")}
        said = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "everything as tested"
        return "\n".join([*lines, said])


def _lines(findings: Sequence[Finding], width: int) -> list[str]:
    lines = []
    for finding in findings:
        lines.append(f"  {finding.state:8} {finding.name:{width}}  {finding.found}".rstrip())
        indent = " " * (13 + width)
        if finding.state != "ok" and finding.costs:
            lines.append(f"{indent}costs: {finding.costs}")
        if finding.state != "ok" and finding.mend:
            lines.append(f"{indent}mend:  {finding.mend}")
    return lines
