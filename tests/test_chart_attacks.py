"""Programs that attack the chart sandbox: none may get what it is after, each fails by name, the server lives on."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from vlrft.rewards import chart, score
from vlrft.rewards.chart.frame import MAGIC

pytest.importorskip("matplotlib")

GOOD = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 4])\nplt.title('Sales')\n"
EXPECTED = {
    "text": ["Sales"],
    "type": ["line"],
    "layout": [[1, 1, 0, 0, 0, 0]],
    "colour": [["line", "#1f77b4"]],
    "legend": [],
    "data": [{"type": "line", "points": [[0, 1], [1, 2], [2, 4]]}],
}
# A page of the right form, the expected one but for paint that nobody can see.
HIDDEN = {
    "size": [640, 480],
    "dpi": 100.0,
    "axes": [{"frame": [80, 52, 576, 422], "slot": [80, 52, 576, 422], "x": ["linear", 0, 2], "y": ["linear", 1, 4]}],
    "owners": [["figure", -1, -1], ["line", 0, 0]],
    "clips": [],
    "ops": [
        {
            "op": "path", "owner": 1, "edge": [0.12, 0.47, 0.71, 1], "width": 0.001,
            "path": [[[80, 52], [328, 175.3], [576, 422]], None],
        },
        {
            "op": "text", "owner": 0, "edge": [0, 0, 0, 0.02], "at": [[300, 40]], "text": "Sales", "angle": 0.0,
            "math": False,
            "font": {
                "family": ["sans-serif"], "size": 1.0, "style": "normal", "weight": "normal", "stretch": "normal",
                "variant": "normal",
            },
        },
    ],
}  # fmt: skip
DENIED, CRASH, TIMEOUT, MEMORY = "sandbox_denied", "sandbox_crash", "sandbox_timeout", "sandbox_memory"
NOTHING = "unparsable"

# What an attack got hold of is drawn, so that success would be a chart and no flag.
LOOT = "import matplotlib.pyplot as plt\nplt.title(str(loot)); plt.plot([1, 2, 4])\n"
LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
FRAME = "def frame(body):\n    return b'" + MAGIC.decode() + "' + len(body).to_bytes(8, 'big') + body\n"
TO_RESULT = (  # to all but the handle by which a child says that it is done, and then to that one
    "import os\ndef to_result(data):\n    for fd in [*range(4), *range(5, 64)]:\n        try: os.write(fd, data)\n"
    "        except OSError: continue\n    os.write(4, b'1'); os._exit(0)\n"
)
TO_ALL = (
    "import os\ndef to_all(data):\n    for fd in range(64):\n        try: os.write(fd, data)\n"
    "        except OSError: continue\n"
)

ATTACKS: dict[str, tuple[str, str | tuple[str, ...]]] = {
    # reading
    "etc_passwd": ("loot = open('/etc/passwd').read()\n" + LOOT, DENIED),
    "parents_file": ("loot = open('@SECRET@').read()\n" + LOOT, DENIED),
    "parents_folder": ("import os\nloot = os.listdir('@FOLDER@')\n" + LOOT, DENIED),
    "list_root": ("import os\nloot = os.listdir('/')\n" + LOOT, DENIED),
    "home": ("import os\nloot = os.listdir('/root')\n" + LOOT, DENIED),
    "parents_memory": ("loot = open('/proc/@PARENT@/mem', 'rb')\n" + LOOT, DENIED),
    "parents_environment": ("loot = open('/proc/@PARENT@/environ').read()\n" + LOOT, DENIED),
    "servers_environment": ("import os\nloot = open(f'/proc/{os.getppid()}/environ').read()\n" + LOOT, DENIED),
    "own_maps": ("loot = open('/proc/self/maps').read()\n" + LOOT, DENIED),
    "process_list": ("import os\nloot = [p for p in os.listdir('/proc') if p.isdigit()]\n" + LOOT, DENIED),
    "environment_key": ("import os\nloot = os.environ['VLRFT_TEST_KEY']\n" + LOOT, CRASH),
    "block_device": ("loot = open('/dev/vda', 'rb').read(10)\n" + LOOT, (DENIED, CRASH)),
    "library_source": ("import vlrft.training\nloot = 1\n" + LOOT, (DENIED, CRASH)),
    "image_of_the_parent": ("import matplotlib.pyplot as plt\nloot = plt.imread('@SECRET@')\n" + LOOT, DENIED),
    # links and paths
    "symlink_read": ("import os\nos.symlink('@SECRET@', 'in')\nloot = open('in').read()\n" + LOOT, DENIED),
    "symlink_folder": ("import os\nos.symlink('@FOLDER@', 'd')\nloot = os.listdir('d')\n" + LOOT, DENIED),
    "hard_link": ("import os\nos.link('@SECRET@', 'in')\nloot = open('in').read()\n" + LOOT, (DENIED, CRASH)),
    "dotdot": ("import os\nloot = os.listdir('..')\n" + LOOT, DENIED),
    "proc_self_root": ("loot = open('/proc/self/root@SECRET@').read()\n" + LOOT, DENIED),
    "chroot": ("import os\nos.chroot('.')\n", DENIED),
    # writing
    "write_outside": ("open('@FOLDER@/planted', 'w').write('x')\nloot = 1\n" + LOOT, DENIED),
    "write_through_link": ("import os\nos.symlink('@FOLDER@', 'd')\nopen('d/planted', 'w')\nloot = 1\n" + LOOT, DENIED),
    "write_site_packages": ("import matplotlib\nopen(matplotlib.__file__, 'a').write('#')\n", DENIED),
    "remove_outside": ("import os\nos.remove('@SECRET@')\n", DENIED),
    "rename_outside": ("import os\nos.rename('@SECRET@', '@FOLDER@/planted')\n", DENIED),
    "truncate_outside": ("import os\nos.truncate('@SECRET@', 0)\n", DENIED),
    "chmod_outside": ("import os\nos.chmod('@SECRET@', 0o777)\n", DENIED),
    "chown_outside": ("import os\nos.chown('@SECRET@', 12345, 12345)\n", DENIED),
    "utime_outside": ("import os\nos.utime('@SECRET@', (1, 1))\n", DENIED),
    "device_node": ("import os\nos.mknod('disk', 0o60600, os.makedev(254, 0))\n", DENIED),
    "shared_memory_file": ("open('/dev/shm/planted', 'w').write('x')\n", DENIED),
    # processes
    "system": ("import os\nos.system('id > @FOLDER@/planted')\nloot = 1\n" + LOOT, DENIED),
    "popen": ("import subprocess\nloot = subprocess.check_output(['id'])\n" + LOOT, DENIED),
    "caught_popen": ("import os\ntry: os.system('id')\nexcept BaseException: pass\nloot = 1\n" + LOOT, DENIED),
    "fork": ("import os\nos.fork()\nloot = 1\n" + LOOT, DENIED),
    "fork_bomb": ("import os\nwhile True: os.fork()\n", DENIED),
    "raw_fork": (LIBC + "libc.syscall(57 if ctypes.sizeof(ctypes.c_void_p) == 8 else 2)\nloot = 1\n" + LOOT, DENIED),
    "exec": ("import os\nos.execv('/bin/sh', ['sh', '-c', 'true'])\n", DENIED),
    "pool": (
        "import multiprocessing as m\nm.get_context('fork').Process(target=print).start()\nloot=1\n" + LOOT,
        DENIED,
    ),
    "thread_bomb": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()\n",
        CRASH,
    ),
    # others' processes
    "kill_server": ("import os\nos.kill(os.getppid(), 9)\nloot = 1\n" + LOOT, DENIED),
    "kill_parent": ("import os\nos.kill(@PARENT@, 15)\nloot = 1\n" + LOOT, DENIED),
    "kill_all": ("import os\nos.kill(-1, 9)\nloot = 1\n" + LOOT, DENIED),
    "kill_group": ("import os\nos.killpg(0, 9)\nloot = 1\n" + LOOT, (DENIED, CRASH)),
    "signal_by_owner": ("import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, @PARENT@)\n", DENIED),
    "ptrace": (LIBC + "libc.ptrace(16, @PARENT@, 0, 0)\nloot = 1\n" + LOOT, DENIED),
    "process_vm_readv": (LIBC + "libc.process_vm_readv(@PARENT@, 0, 0, 0, 0, 0)\nloot = 1\n" + LOOT, DENIED),
    "pidfd": ("import os\nos.pidfd_open(@PARENT@)\nloot = 1\n" + LOOT, DENIED),
    "slow_others": ("import os\nos.setpriority(os.PRIO_PROCESS, @PARENT@, 19)\n", DENIED),
    # network and kernel
    "tcp": ("import socket\nsocket.create_connection(('127.0.0.1', 80))\n", DENIED),
    "udp": ("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nloot = 1\n" + LOOT, DENIED),
    "unix_socket": ("import socket\nsocket.socket(socket.AF_UNIX)\nloot = 1\n" + LOOT, DENIED),
    "download": ("import pandas as pd\nloot = pd.read_csv('http://127.0.0.1:9/x.csv')\n" + LOOT, DENIED),
    "unshare": (LIBC + "libc.unshare(0x10000000)\nloot = 1\n" + LOOT, DENIED),
    "mount": (LIBC + "libc.mount(b'none', b'.', b'tmpfs', 0, 0)\nloot = 1\n" + LOOT, DENIED),
    "io_uring": (LIBC + "libc.syscall(425, 8, 0)\nloot = 1\n" + LOOT, DENIED),
    "bpf": (LIBC + "libc.syscall({'x86_64': 321}.get(__import__('os').uname().machine, 280), 0, 0, 0)\n", DENIED),
    "shared_memory": (LIBC + "libc.shmget(0, 1 << 30, 0o1600)\nloot = 1\n" + LOOT, DENIED),
    "memory_file": ("import os\nos.memfd_create('m')\nloot = 1\n" + LOOT, DENIED),
    "setuid": ("import os\nos.setuid(0)\nloot = 1\n" + LOOT, DENIED),
    "raise_limits": ("import resource as r\nr.setrlimit(r.RLIMIT_AS, (-1, -1))\nloot = 1\n" + LOOT, (DENIED, CRASH)),
    # exhaustion
    "mapped_memory": ("import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 1 << 26))\n", MEMORY),
    "removed_files": (
        "import os\nx = []\nfor i in range(50):\n    x.append(open('f', 'wb')); os.unlink('f')\n"
        "    x[-1].write(bytes(3 << 20))\n",
        DENIED,
    ),
    "endless_loop": ("while True: pass\n", TIMEOUT),
    "sleep": ("import time\ntime.sleep(60)\n", TIMEOUT),
    "ignores_signals": (
        "import signal\nfor s in (2, 15, 24): signal.signal(s, signal.SIG_IGN)\nwhile 1: pass\n",
        TIMEOUT,
    ),
    "swallows_exceptions": ("while True:\n    try: x = 1 / 0\n    except BaseException: pass\n", TIMEOUT),
    "catastrophic_regex": ("import re\nre.match(r'(a+)+$', 'a' * 64 + 'b')\n", TIMEOUT),
    "memory_bomb": ("x = bytearray(1 << 40)\n", MEMORY),
    "growing_list": ("x = []\nwhile True: x.append(bytearray(1 << 26))\n", MEMORY),
    "array_bomb": ("import numpy as np\nx = np.ones((1 << 18, 1 << 18))\n", MEMORY),
    "big_file": ("with open('big', 'wb') as f:\n    while True: f.write(bytes(1 << 20))\n", DENIED),
    "many_files": ("i = 0\nwhile True:\n    open(str(i), 'w').close(); i += 1\n", DENIED),
    "deep_folders": ("import os\nwhile True:\n    os.mkdir('d'); os.chdir('d')\n", (DENIED, CRASH, TIMEOUT)),
    "many_handles": ("import os\nwhile True: os.open('/dev/null', 0)\n", DENIED),
    "huge_print": ("while True: print('x' * (1 << 20))\n", TIMEOUT),
    "huge_figure": (
        "import matplotlib.pyplot as plt\nplt.figure(figsize=(1e5, 1e5)); plt.plot([1])\n",
        (MEMORY, CRASH),
    ),
    "deep_source": ("(" * 5000 + ")" * 5000, NOTHING),
    # ends
    "os_exit": ("import os\n" + GOOD + "os._exit(0)\n", CRASH),
    "abort": ("import os\nos.abort()\n", CRASH),
    "segfault": ("import ctypes\nctypes.string_at(0)\n", CRASH),
    "recursion": ("def f(): f()\nf()\n", CRASH),
    "raises_exit_group": ("raise KeyboardInterrupt\n", CRASH),
    # forged results
    "prints_the_dump": ("print(@DUMP@)\n", NOTHING),
    "saves_the_dump": ("open('dump.json', 'w').write(@DUMP@)\n", NOTHING),
    "dump_to_all_handles": (TO_ALL + "to_all(@DUMP@.encode()); os._exit(0)\n", DENIED),
    "dump_then_chart": (TO_ALL + "to_all(@DUMP@.encode())\n" + GOOD, DENIED),
    "framed_dump": (TO_ALL + FRAME + "to_all(frame(@DUMP@.encode())); os._exit(0)\n", DENIED),
    "framed_page": (TO_ALL + FRAME + "to_all(frame(b'{\"pages\":['+@DUMP@.encode()+b']}')); os._exit(0)\n", DENIED),
    "framed_hidden_page": (TO_RESULT + FRAME + "to_result(frame(b'{\"pages\":['+@HIDDEN@.encode()+b']}'))\n", NOTHING),
    "framed_ill_formed_page": (
        TO_RESULT
        + FRAME
        + "page = @HIDDEN@.encode().replace(b'Sales', b'\\\\ud800')\n"
        + "to_result(frame(b'{\"pages\":[' + page + b']}'))\n",
        DENIED,
    ),
    "patched_recorder_hidden_page": (
        "import json, sys\nsys.modules['vlrft.rewards.chart.program_run'].page = lambda f, **k: json.loads(@HIDDEN@)\n"
        + GOOD,
        NOTHING,
    ),
    "many_hidden_pages": (
        TO_RESULT + FRAME + "to_result(frame(b'{\"pages\":['+b','.join([@HIDDEN@.encode()] * 17)+b']}'))\n",
        "over_length",
    ),
    "endless_result": (TO_ALL + "while True: to_all(bytes(1 << 20))\n", (DENIED, TIMEOUT)),
    "patched_recorder": (
        "import json, sys\nsys.modules['vlrft.rewards.chart.program_run'].page = lambda f: json.loads(@DUMP@)\n" + GOOD,
        DENIED,
    ),
    "patched_json": ("import json\njson.dumps = lambda *a, **k: @DUMP@\n" + GOOD, DENIED),
    "patched_write": (
        "import os\nreal = os.write\nos.write = lambda fd, data: real(fd, @DUMP@.encode()) and len(data)\n" + GOOD,
        DENIED,
    ),
    "patched_reader_of_marks": (
        "import json, sys\nsys.modules['vlrft.rewards.chart.recorder'].Recorder._add = lambda self, *a, **k: None\n"
        + GOOD,
        NOTHING,
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLRFT_TEST_KEY", "a key of the parent's")
    (tmp_path / "secret.txt").write_text("the reference")
    return tmp_path


def test_the_corpus_is_large() -> None:
    assert len(ATTACKS) >= 40


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_fails_by_name_and_the_server_lives(name: str, folder: Path) -> None:
    program, expected = ATTACKS[name]
    secret = folder / "secret.txt"
    before = secret.stat()
    for mark, value in (
        ("@SECRET@", str(secret)),
        ("@FOLDER@", str(folder)),
        ("@PARENT@", str(os.getpid())),
        ("@DUMP@", repr(json.dumps(EXPECTED))),
        ("@HIDDEN@", repr(json.dumps(HIDDEN))),
    ):
        program = program.replace(mark, value)
    slow = expected == TIMEOUT or TIMEOUT in expected
    found = score("chart.render", program, EXPECTED, {"output_mode": "direct", "timeout_s": 0.7 if slow else 5.0})
    assert found.value == 0.0
    assert found.flags
    assert found.flags[-1] in ([expected] if isinstance(expected, str) else expected), found
    after = secret.stat()
    assert sorted(p.name for p in folder.iterdir()) == ["secret.txt"]
    assert secret.read_text() == "the reference"
    assert (before.st_mode, before.st_uid, before.st_mtime_ns) == (after.st_mode, after.st_uid, after.st_mtime_ns)
    # The server answers, and the next program's folder and memory hold nothing of this one.
    assert chart.shared_sandbox().run(GOOD, timeout_s=20.0).flag is None


def test_the_same_server_took_it_all() -> None:
    held = chart.shared_sandbox()
    first = held._process
    for program in ("import os; os.kill(os.getppid(), 9)", "import os; os.kill(-1, 9)", "while 1: pass", GOOD):
        held.run(program, timeout_s=0.5)
    assert held._process is first or first is None


def test_nothing_of_the_reference_is_in_a_childs_memory() -> None:
    marker = "pineapple-" + "reference"
    target = f"import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.title('{marker}')\n"
    chart.recorded(target)
    # Every string that the collector knows, and all of the globals of every module, in a later child.
    search = (
        "import gc, sys\nseen = [m.__dict__ for m in list(sys.modules.values()) if hasattr(m, '__dict__')]\n"
        "seen += gc.get_objects()\nword = 'pineapple-' + 'ref' + 'erence'\n"
        "held = [v for o in seen if isinstance(o, dict) for v in list(o.values()) if isinstance(v, str)]\n"
        "assert len(held) > 1000 and not [v for v in held if word in v and v is not word]\n" + GOOD
    )
    assert chart.shared_sandbox().run(search, timeout_s=20.0).flag is None


def test_leftovers_are_removed() -> None:
    held = chart.shared_sandbox()
    held.run("import os\nfor i in range(60):\n    os.mkdir('d'); os.chdir('d')\n", timeout_s=5.0)
    held.run("import os\nos.symlink('/', 'root'); open('x', 'w').write('y')\n", timeout_s=5.0)
    # The end of a program is told before its folder is cleared away; one empty folder is the next child's.
    deadline = time.monotonic() + 10.0
    while len(left := [p for p in Path(held._base).iterdir() if p.name != "proof"]) > 1 or any(left[0].iterdir()):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
