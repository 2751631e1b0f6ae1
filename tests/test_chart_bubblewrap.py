"""The chart sandbox by each of its means: Landlock, bubblewrap, both; and what is said where there is neither."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vlrft.rewards.chart import Sandbox, SandboxUnavailable, bubblewrap

pytest.importorskip("matplotlib")

GOOD = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 4])\nplt.title('Sales')\n"
MEANS = [("landlock",), ("bubblewrap",), ("bubblewrap", "landlock")]
DENIED = "sandbox_denied"

ATTACKS = {
    "etc": ("open('/etc/passwd')", DENIED),
    "secret": ("open('@SECRET@')", DENIED),
    "secret_by_link": ("import os\nos.symlink('@SECRET@', 'in')\nopen('in')", DENIED),
    "secret_by_dots": ("open('../' * 20 + '@SECRET@'[1:])", DENIED),
    "secret_by_process": ("open('/proc/self/root@SECRET@')", DENIED),
    "write_beside": ("open('@FOLDER@/planted', 'w')", DENIED),
    "write_root": ("open('/planted', 'w')", DENIED),
    "write_shared_memory": ("open('/dev/shm/planted', 'w')", DENIED),
    "write_packages": ("import matplotlib\nopen(matplotlib.__file__, 'a')", DENIED),
    "environment": ("import os\nopen(f'/proc/{os.getppid()}/environ')", DENIED),
    "memory": ("import os\nopen(f'/proc/{os.getppid()}/mem', 'wb')", DENIED),
    "library": ("import vlrft.training", "sandbox_crash"),
    "base_folder": ("import os\nassert os.listdir('..') != os.listdir('..')", (DENIED, "sandbox_crash")),
    "network": ("import socket\nsocket.socket()", DENIED),
    "fork": ("import os\nos.fork()", DENIED),
    "kill": ("import os\nos.kill(1, 9)", DENIED),
    "mount": ("import ctypes\nctypes.CDLL(None).mount(b'x', b'/', b'tmpfs', 0, 0)", DENIED),
    "own_namespaces": ("import ctypes\nctypes.CDLL(None).unshare(0x10000000)", DENIED),
    "loop": ("while True: pass", "sandbox_timeout"),
}


def _works(means: tuple[str, ...]) -> str | None:
    return bubblewrap.lack() if "bubblewrap" in means else None


@pytest.fixture(scope="module", params=MEANS, ids="+".join)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    lack = _works(request.param)
    if lack is not None:
        pytest.skip(f"bubblewrap cannot be used here: {lack}")
    held = Sandbox(means=request.param)
    yield held
    held.close()


def test_it_holds_by_what_was_asked_for(sandbox: Sandbox) -> None:
    assert sandbox.run(GOOD, timeout_s=30.0).flag is None
    assert sandbox.holds == (*sandbox.means, "seccomp")
    assert sandbox.paint(sandbox.run(GOOD, timeout_s=30.0).pages[0], timeout_s=30.0) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_fail_by_every_means(name: str, sandbox: Sandbox, tmp_path: Path) -> None:
    program, expected = ATTACKS[name]
    secret = tmp_path / "secret.txt"
    secret.write_text("the reference")
    program = program.replace("@SECRET@", str(secret)).replace("@FOLDER@", str(tmp_path))
    ended = sandbox.run(program, timeout_s=1.0 if name == "loop" else 10.0)
    assert ended.flag in ([expected] if isinstance(expected, str) else expected), ended
    assert [p.name for p in tmp_path.iterdir()] == ["secret.txt"]
    assert sandbox.run(GOOD, timeout_s=30.0).flag is None


@pytest.mark.slow
def test_programs_do_not_see_each_others_folders(sandbox: Sandbox) -> None:
    """While one program waits with a file in its folder, others look for it."""
    sandbox.run(GOOD, timeout_s=30.0)
    leave = "import time\nopen('note', 'w').write('mine')\ntime.sleep(3)\nassert open('note').read() == 'mine'\n" + GOOD
    seek = (
        "import os, time\ntime.sleep(1)\nseen = []\n"
        f"for place in ('..', {sandbox._home!r}, {sandbox._base!r}, '/tmp', '/'):\n"
        f"    for n in [''] + [f'/{{i}}' for i in range(200)]:\n"
        "        try: seen += [place + n + '/' + f for f in os.listdir(place + n) if f == 'note']\n"
        "        except OSError: continue\nassert not seen, seen\n"
    ) + GOOD
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda program: sandbox.run(program, timeout_s=30.0), (leave, seek)))
    assert [end.flag for end in ends] == [None, None], ends


@pytest.mark.slow
def test_nothing_is_left_behind(sandbox: Sandbox) -> None:
    sandbox.run(GOOD, timeout_s=30.0)
    assert sandbox._process is not None
    home, process = Path(sandbox._home), sandbox._process
    sandbox.close()
    assert not home.exists()
    assert process.poll() is not None
    assert sandbox.run(GOOD, timeout_s=30.0).flag is None  # and it starts again


@pytest.mark.slow
def test_the_server_ends_with_its_parent(tmp_path: Path) -> None:
    """Also where the parent is killed and cannot say so."""
    program = (
        "import sys, time\nfrom vlrft.rewards.chart import Sandbox\nheld = Sandbox()\n"
        f"held.run({GOOD!r}, timeout_s=30.0)\nprint(held._process.pid, flush=True)\ntime.sleep(60)\n"
    )
    settings = os.environ | {"TMPDIR": str(tmp_path)}  # its folder stays, since nobody is left to remove it
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=settings) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10.0
    while os.path.exists(f"/proc/{server}/environ") and _alive(server):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    return " Z " not in Path(f"/proc/{pid}/stat").read_text()


@pytest.mark.slow
def test_without_bubblewrap_landlock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "lack", lambda: "not installed")
    held = Sandbox()
    try:
        assert held.run(GOOD, timeout_s=30.0).flag is None
        assert held.holds == ("landlock", "seccomp")
    finally:
        held.close()


@pytest.mark.slow
def test_with_neither_nothing_runs() -> None:
    held = Sandbox(means=())
    with pytest.raises(SandboxUnavailable, match="neither Landlock nor bubblewrap"):
        held.run(GOOD, timeout_s=30.0)
    by_name = Sandbox(means=(), allow_unsandboxed=True)
    try:
        assert by_name.run(GOOD, timeout_s=30.0).flag is None
        assert by_name.holds == ()
    finally:
        by_name.close()


def test_why_bubblewrap_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not installed" in str(bubblewrap.lack.__wrapped__())
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'no namespaces for you' >&2\nexit 3\n")
    broken.chmod(0o755)
    assert bubblewrap.lack.__wrapped__() == "bwrap ended with 3: no namespaces for you"


def test_what_bubblewrap_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Read-only but for one folder; nothing of the home folder, of /etc or /tmp beyond what Python needs."""
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    made = bubblewrap.command(str(tmp_path))
    assert {"--unshare-all", "--die-with-parent"} <= set(made)
    writable = [made[i + 1 : i + 3] for i, word in enumerate(made) if word in ("--bind", "--dev-bind")]
    assert writable == [[str(tmp_path), str(tmp_path)]]
    shown = [made[i + 1] for i, word in enumerate(made) if word == "--ro-bind"]
    whole = {"/", "/etc", "/home", "/root", "/tmp", "/usr", "/var", os.path.expanduser("~")}
    assert not whole & set(shown)
