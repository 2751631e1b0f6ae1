"""bubblewrap around the warm server, where it is installed and works.

The server then sees Python, its packages, shared libraries and fonts, read-only; its own base folder; and nothing else
of the file system. It has no network, no other processes in sight, and it dies with us. Needs no privilege where users
may make namespaces. Nothing rests on it alone where Landlock is there; where Landlock is not, mounts.py builds each
child's private view within it.
"""

from __future__ import annotations

import functools
import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

from vlrft.rewards.chart.confinement import readable_paths

_TRIAL_SECONDS = 30.0


def library_folders() -> tuple[str, ...]:
    """Where this package itself is imported from: read at the server's start, of no use to a program."""
    packages = [sys.modules[name].__path__ for name in ("vlrft", "vlrft.rewards")]
    places = {str(Path(place).resolve()) for package in packages for place in package}
    return tuple(sorted(place for place in places if not place.startswith(readable_paths())))


def command(base: str) -> list[str]:
    """What to put before a Python command so that it runs within bubblewrap, with `base` as its only writable folder.

    Raises FileNotFoundError where bubblewrap is not installed.
    """
    found = shutil.which("bwrap")
    if found is None:
        raise FileNotFoundError("bwrap is not installed")
    made = [found, "--unshare-all", "--die-with-parent", "--proc", "/proc", "--dev", "/dev"]
    for place in sorted({*readable_paths(), *_of_python(), *library_folders()}):
        made += ["--ro-bind", place, place]
    return [*made, "--bind", base, base, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/", "--"]


@functools.cache
def lack() -> str | None:
    """Why bubblewrap cannot be used here, in words; None where a trial worked."""
    try:
        tried = subprocess.run(
            [*command(os.path.dirname(os.path.realpath(__file__))), sys.executable, "-I", "-S", "-c", "pass"],
            capture_output=True,
            text=True,
            timeout=_TRIAL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if tried.returncode == 0 else f"bwrap ended with {tried.returncode}: {tried.stderr.strip()[-300:]}"


def settings(folder: str) -> dict[str, str]:
    """Environment for Matplotlib within: `folder` for its settings, with the fonts that it found at earlier starts."""
    os.mkdir(folder)
    home = os.path.expanduser("~")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    known = os.environ.get("MPLCONFIGDIR") or os.path.join(cache, "matplotlib")
    for file in glob.glob(os.path.join(glob.escape(known), "fontlist-*.json")):
        shutil.copy(file, folder)
    return {"HOME": folder, "MPLCONFIGDIR": folder}


def _of_python() -> set[str]:
    """The interpreter, and what says where its packages are."""
    programs = {sys.executable, os.path.realpath(sys.executable), getattr(sys, "_base_executable", sys.executable)}
    folders = {os.path.dirname(program) for program in programs}
    return {place for place in {*folders, os.path.join(sys.prefix, "pyvenv.cfg")} if os.path.exists(place)}
