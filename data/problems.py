"""What can be wrong with data, and what is done about it: stop, or skip, count and list."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal


class DataError(ValueError):
    """A file, folder or setting that makes a whole source unusable. Never skipped."""


class SampleError(DataError):
    """One bad row. `data.on_bad_sample` decides whether it stops the run or is skipped, counted and listed."""

    medium: str | None = None
    """The image or video that cannot be read, where that is what is bad."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason


@contextmanager
def of_row(where: str) -> Iterator[None]:
    """Within it, what a value of an unexpected type or size makes a reader raise is a SampleError of the row `where`.

    Readers check what they can name; this is for the rest of what a row may hold.
    """
    try:
        yield
    except DataError:
        raise
    except (TypeError, ValueError, OverflowError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
            raise
        reason = f"holds a value of a wrong type or size ({type(error).__name__}: {str(error)[:200]}); correct the row"
        raise SampleError(where, reason) from error


Kind = Literal["bad", "published", "rule"]
"""Why something is left out: it is wrong; the published file has it so, and no answer to it can be judged (or, for
training, its form's own rules leave it out); or a rule of the recipe leaves it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """One thing left out, for the list that a run shows and keeps."""

    where: str
    """File and line, or image, that it came from."""
    reason: str
    kind: Kind = "bad"
    whole: bool = True
    """A row; False for a part of one, such as a box, and for a second reason to leave out the same row."""
    stops: bool = False
    """It stops a run whatever `data.on_bad_sample` says."""
    medium: str | None = None
    """The image or video that cannot be read, where that is the reason: it goes to the run's quarantine file."""
    decoder: str | None = None
    """`data.video.decoder` of a video that could not be decoded."""

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def lost_rows(skipped: Iterable[Skipped]) -> int:
    """How many rows of a source these are that it holds and that nobody asked to leave out: with those in use, all N of
    which an evaluation says that it covers n."""
    return sum(item.whole and item.kind != "rule" for item in skipped)


@dataclass(slots=True, kw_only=True)
class Quarantine:
    """Collects what a source leaves out."""

    policy: Literal["error", "skip"] = "error"
    """`data.on_bad_sample`."""
    skipped: list[Skipped] = field(default_factory=list)

    def bad(self, error: SampleError) -> None:
        """A bad row: raise it, or note it, as the policy says."""
        if self.policy == "error":
            raise error
        self.skipped.append(Skipped(where=error.where, reason=error.reason, medium=error.medium))

    def published(self, where: str, reason: str, *, whole: bool = True) -> None:
        """A row (or, not `whole`, a part of one) that its published file has so: always noted, never an error."""
        self.skipped.append(Skipped(where=where, reason=reason, kind="published", whole=whole))

    def filtered(self, where: str, reason: str) -> None:
        """A row left out by a rule of the recipe: always noted, never an error."""
        self.skipped.append(Skipped(where=where, reason=reason, kind="rule"))
