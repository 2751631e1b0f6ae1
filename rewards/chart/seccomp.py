"""The system calls that a chart program may make, as a seccomp filter; no library needed.

What such a program needs is allowed. What only an attack would try (new processes and programs, sockets, ptrace,
signals to others, mounts, namespaces, io_uring, keys, shared memory ...) kills the process with SIGSYS, so that it
cannot be tried and hidden. Everything else fails with EPERM. Only 64-bit x86 and ARM are known; calls by any other
convention kill the process. (The numbers for ARM are from the kernel's headers; they have not been tried there.)
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

ALLOWED = """
read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 preadv:295:69 pwritev:296:70 open:2:-
openat:257:56 close:3:57 close_range:436:436 lseek:8:62 stat:4:- fstat:5:80 lstat:6:- newfstatat:262:79
statx:332:291 access:21:- faccessat:269:48 faccessat2:439:439 readlink:89:- readlinkat:267:78 getdents:78:-
getdents64:217:61 getcwd:79:17 chdir:80:49 fchdir:81:50 mkdir:83:- mkdirat:258:34 rmdir:84:- unlink:87:-
unlinkat:263:35 rename:82:- renameat:264:38 renameat2:316:276 link:86:- linkat:265:37 symlink:88:-
symlinkat:266:36 truncate:76:45 ftruncate:77:46 fsync:74:82 fdatasync:75:83 flock:73:32 umask:95:166 dup:32:23
dup2:33:- dup3:292:24 pipe:22:- pipe2:293:59 fadvise64:221:223 copy_file_range:326:285 sendfile:40:71
statfs:137:43 fstatfs:138:44 mmap:9:222 mprotect:10:226 munmap:11:215 mremap:25:216 madvise:28:233 brk:12:214
mincore:27:232 msync:26:227 membarrier:324:283 futex:202:98 set_robust_list:273:99 get_robust_list:274:100
rseq:334:293 set_tid_address:218:96 sched_yield:24:124 sched_getaffinity:204:123 getcpu:309:168 nanosleep:35:101
clock_nanosleep:230:115 clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169 time:201:- times:100:153
getrusage:98:165 getrlimit:97:163 sysinfo:99:179 uname:63:160 getpid:39:172 getppid:110:173 gettid:186:178
getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177 getgroups:115:158 getpgrp:111:- getpgid:121:155
getsid:124:156 getresuid:118:148 getresgid:120:150 getpriority:140:141 getrandom:318:278 rt_sigaction:13:134
rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigsuspend:130:133 rt_sigtimedwait:128:137
sigaltstack:131:132 restart_syscall:219:128 pause:34:- alarm:37:- setitimer:38:103 getitimer:36:102 select:23:-
pselect6:270:72 poll:7:- ppoll:271:73 epoll_create:213:- epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:-
epoll_pwait:281:22 eventfd:284:- eventfd2:290:19 exit:60:93 exit_group:231:94 arch_prctl:158:- capget:125:90
"""
"""Name, number on x86_64, number on aarch64 (- where it has none), from Linux's unistd headers."""

FATAL = """
fork:57:- vfork:58:- execve:59:221 execveat:322:281 ptrace:101:117 socket:41:198 socketpair:53:199 bind:49:200
connect:42:203 listen:50:201 accept:43:202 accept4:288:242 sendto:44:206 sendmsg:46:211 sendmmsg:307:269
recvfrom:45:207 recvmsg:47:212 recvmmsg:299:243 shutdown:48:210 getsockname:51:204 getpeername:52:205
setsockopt:54:208 getsockopt:55:209 mount:165:40 umount2:166:39 pivot_root:155:41 chroot:161:51
move_mount:429:429 open_tree:428:428 fsopen:430:430 fsmount:432:432 fsconfig:431:431 fspick:433:433
mount_setattr:442:442 swapon:167:224 swapoff:168:225 reboot:169:142 sethostname:170:161 setdomainname:171:162
init_module:175:105 finit_module:313:273 delete_module:176:106 kexec_load:246:104 kexec_file_load:320:294
bpf:321:280 perf_event_open:298:241 io_uring_setup:425:425 io_uring_enter:426:426 io_uring_register:427:427
unshare:272:97 setns:308:268 process_vm_readv:310:270 process_vm_writev:311:271 process_madvise:440:440
process_mrelease:448:448 pidfd_open:434:434 pidfd_send_signal:424:424 pidfd_getfd:438:438 kcmp:312:272
keyctl:250:219 add_key:248:217 request_key:249:218 userfaultfd:323:282 open_by_handle_at:304:265
name_to_handle_at:303:264 fanotify_init:300:262 fanotify_mark:301:263 inotify_init:253:- inotify_init1:294:26
inotify_add_watch:254:27 quotactl:179:60 acct:163:89 rt_sigqueueinfo:129:138 rt_tgsigqueueinfo:297:240
personality:135:92 shmget:29:194 shmat:30:196 shmctl:31:195 semget:64:190 semop:65:193 semctl:66:191
msgget:68:186 msgsnd:69:189 msgrcv:70:188 msgctl:71:187 mq_open:240:180 memfd_create:319:279
memfd_secret:447:447 seccomp:317:277 setuid:105:146 setgid:106:144 setreuid:113:145 setregid:114:143
setresuid:117:147 setresgid:119:149 setfsuid:122:151 setfsgid:123:152 setgroups:116:159 capset:126:91 iopl:172:-
ioperm:173:- settimeofday:164:170 clock_settime:227:112 adjtimex:159:171 clock_adjtime:305:266 syslog:103:116
vhangup:153:58 lookup_dcookie:212:18
"""

JUDGED = "prlimit64:302:261 fcntl:72:25 ioctl:16:29 clone:56:220 kill:62:129 tgkill:234:131 tkill:200:130"
"""Calls whose arguments decide."""

_COLUMN = {"x86_64": (1, 0xC000003E, 317), "aarch64": (2, 0xC00000B7, 277)}
"""Machine: column of its numbers, its audit name, its number of seccomp(2)."""

_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_CLONE3 = 435
_CLONE_THREAD = 0x10000
# Terminal size and mode, bytes waiting, blocking, close-on-exec: what reading and writing files needs.
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ: signals to others, memory that no limit counts.
_FCNTLS = (8, 10, 15, 1024, 1026, 1031)

Instruction = tuple[int, int, int, int]


def supported() -> bool:
    """True on the machines whose system calls are listed here."""
    return platform.machine() in _COLUMN


def program(pid: int) -> bytes:
    """The filter, as an array of sock_filter, for the process `pid` (the only one that it may signal)."""
    column, arch, _ = _COLUMN[platform.machine()]
    out: list[Instruction] = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    if column == 1:  # the x32 convention has numbers of its own
        out += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _KILL)]
    for name, number in _numbers(JUDGED, column):
        rule = _judged(name, pid)
        out += [(_EQUAL, 0, len(rule), number), *rule]
    out += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]  # the C library then tries clone
    for listed, action in ((ALLOWED, _ALLOW), (FATAL, _KILL)):
        for _, number in _numbers(listed, column):
            out += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, action)]
    out.append((_RETURN, 0, 0, _ERRNO | errno.EPERM))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in out)


def _numbers(table: str, column: int) -> list[tuple[str, int]]:
    rows = [entry.split(":") for entry in table.split()]
    return [(row[0], int(row[column])) for row in rows if row[column] != "-"]


def _judged(name: str, pid: int) -> list[Instruction]:
    """What follows when the call is `name`; every branch returns."""
    denied = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    allowed, killed = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _KILL)
    if name == "clone":
        # One thread each: a thread bomb meets no limit of root's. A new process is the end.
        return [_argument(0), (_ANY_BIT, 0, 1, _CLONE_THREAD), (_RETURN, 0, 0, _ERRNO | errno.EAGAIN), killed]
    if name in ("kill", "tkill", "tgkill"):
        return [_argument(0), (_EQUAL, 0, 1, pid), allowed, killed]
    if name == "prlimit64":  # reading limits, never setting them: root may raise its own
        high, low = _argument(2, upper=True), _argument(2)
        return [high, (_EQUAL, 0, 3, 0), low, (_EQUAL, 0, 1, 0), allowed, denied]
    if name == "ioctl":
        tests = [(_EQUAL, len(_IOCTLS) - i, 0, request) for i, request in enumerate(_IOCTLS)]
        return [_argument(1), *tests, (_RETURN, 0, 0, _ERRNO | errno.ENOTTY), allowed]
    tests = [(_EQUAL, len(_FCNTLS) - i, 0, request) for i, request in enumerate(_FCNTLS)]
    return [_argument(1), *tests, allowed, denied]


def _argument(index: int, *, upper: bool = False) -> Instruction:
    """Load one half of an argument (both machines are little-endian)."""
    return (_LOAD, 0, 0, 16 + 8 * index + (4 if upper else 0))


def install(pid: int) -> None:
    """Bind this process and its threads to the filter, for ever. `no_new_privs` must be set. Raises OSError."""
    code = program(pid)
    held = ctypes.create_string_buffer(code, len(code))
    fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(held)))
    libc = ctypes.CDLL(None, use_errno=True)
    number = _COLUMN[platform.machine()][2]
    if libc.syscall(number, 1, 1, fprog) != 0:  # SECCOMP_SET_MODE_FILTER, on all threads
        failure = ctypes.get_errno()
        raise OSError(failure, "seccomp filter refused")
