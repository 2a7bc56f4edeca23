"""A process that gives up what it does not need before it runs a student's code: Linux takes most of it away, other systems less.

What is taken, each on its own, so that a system that refuses one still gives the others: the network; the sight of every other process
(what it starts dies with it); writing outside one folder; reading the folders that are named; rights it could get back; and, on every
Unix, time, memory, the size and number of its files, the number of its processes.
"""

import contextlib
import ctypes
import os
import resource
import signal
import stat
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lora_edu.models.cache import cache_dir

NOBODY = 65534  # who runs a student's code where the teacher is root
_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 0x1000, 0x4000, 0x40000, 2, 4, 8
_AT_RECURSIVE, _AT_FDCWD, _SYS_MOUNT_SETATTR, _RDONLY = 0x8000, -100, 442, 1
_PDEATHSIG, _DUMPABLE, _NO_NEW_PRIVS = 1, 4, 38
SHIELDS = {
    "processes": "it sees no other process, and what it starts dies with it",
    "network": "it has no network",
    "files": "it can write nowhere but in a folder of its own, which is thrown away",
    "sight": "it cannot read the other submissions and the solutions",
    "rights": "it can get none of this back",
}


@dataclass(frozen=True)
class Limits:
    """What one answer may use. Memory and files in bytes; the limit on files is on each, and on all of them together where they lie apart."""

    seconds: float = 60.0  # by the clock, loading the answer included
    memory: int = 3_000_000_000  # beyond what the grader's own code takes
    output: int = 10_000_000  # what it prints, and any file it writes
    open_files: int = 128
    processes: int = 128  # threads count


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def confine(folder: Path, limits: Limits, hidden: tuple[Path, ...] = ()) -> list[str]:
    """Confine this process, which must have one thread, to `folder`; never returns in the process that only watches over it.

    Args:
        folder: where it may write; it becomes the working directory.
        hidden: folders whose content it shall not read.

    Returns:
        Which of `SHIELDS` this system gave.
    """
    os.setsid()
    given = _apart(folder, limits, hidden) if sys.platform == "linux" else []
    for name in ("HOME", "TMPDIR", "LORA_EDU_HOME"):
        os.environ[name] = str(folder)
    tempfile.tempdir = str(folder)  # Python has looked for one before, outside
    os.chdir(folder)
    _ration(limits)
    return given


def _ration(limits: Limits) -> None:
    """Limits that every Unix knows; a lower one that is there already stays."""
    seconds = int(limits.seconds) + 2
    wanted = {
        "RLIMIT_CPU": seconds, "RLIMIT_FSIZE": limits.output, "RLIMIT_NOFILE": limits.open_files, "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": limits.processes, "RLIMIT_AS": _address_space() + limits.memory,
    }  # fmt: skip
    for name, most in wanted.items():
        number = getattr(resource, name, None)
        if number is None or (name == "RLIMIT_AS" and sys.platform != "linux"):
            continue
        _, hard = resource.getrlimit(number)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(number, (most, most))
        except (ValueError, OSError):  # macOS refuses some
            continue


def _address_space() -> int:
    """The bytes of address space that this process has now; a guess where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 16_000_000_000


def _apart(folder: Path, limits: Limits, hidden: tuple[Path, ...]) -> list[str]:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    user, group = os.getuid(), os.getgid()
    if user == 0:
        _open_to_nobody(libc)
        os.chown(folder, NOBODY, NOBODY)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        libc.prctl(_DUMPABLE, 1, 0, 0, 0)  # else /proc/self is root's, and the maps below cannot be written
        libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        user = group = NOBODY
    if libc.unshare(_NEWUSER | _NEWNS | _NEWPID | _NEWNET | _NEWIPC) != 0:
        return ["network"] if libc.unshare(_NEWUSER | _NEWNET) == 0 else []
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with contextlib.suppress(OSError):  # it is nobody, then: worse names, the same walls
            Path(f"/proc/self/{name}").write_text(text)
    given = ["network"]
    if (child := os.fork()) != 0:
        _watch(child)
    given.append("processes")  # from here on: number 1 of its own processes
    libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if (child := os.fork()) != 0:
        _watch(child)
    given += _shut(libc, folder, limits, hidden)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.capset(ctypes.byref(_CapHeader(0x20080522, 0)), ctypes.byref((ctypes.c_uint32 * 6)())) == 0:
        given.append("rights")
    return given


def _open_to_nobody(libc: ctypes.CDLL) -> None:
    """Let somebody who is not root reach Python, the course and its model where they lie in a folder of root's own, and no more of it."""
    ways = {Path(sys.base_prefix), Path(sys.prefix).resolve(), Path(__file__).parents[3], cache_dir()}
    closed = {
        top: way
        for way in ways
        if way.is_dir()
        for top in reversed(way.parents)
        if not top.stat().st_mode & stat.S_IXOTH
    }
    if not closed or libc.unshare(_NEWNS) != 0 or libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        return
    reached = [(way, os.open(way, os.O_PATH)) for way in ways if way.is_dir() and closed.keys() & set(way.parents)]
    for top in sorted(closed):
        if not any(other in top.parents for other in closed):
            libc.mount(b"tmpfs", os.fsencode(top), b"tmpfs", _MS_NOSUID | _MS_NODEV, b"size=64k,mode=0755")
    for way, fd in reached:
        way.mkdir(parents=True, exist_ok=True)
        libc.mount(os.fsencode(f"/proc/self/fd/{fd}"), os.fsencode(way), None, _MS_BIND | _MS_REC, None)
        os.close(fd)


def _shut(libc: ctypes.CDLL, folder: Path, limits: Limits, hidden: tuple[Path, ...]) -> list[str]:
    """Everything read-only but `folder`, which is memory; what is hidden is covered."""

    def cover(path: Path, options: str, kind: bytes = b"tmpfs") -> bool:
        return libc.mount(kind, os.fsencode(path), kind, _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options.encode()) == 0

    if libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        return []
    covered = [cover(path, "size=4k,mode=0755") or not os.access(path, os.R_OK) for path in hidden]
    closed = _MountAttr(_RDONLY, 0, 0, 0)
    shut = (
        libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, ctypes.byref(closed), ctypes.sizeof(closed))
        == 0
    )
    own = cover(folder, f"size={4 * limits.output},nr_inodes=1000,mode=0700")
    cover(Path("/proc"), "", b"proc") or cover(
        Path("/proc"), "size=4k"
    )  # the old one shows, and opens, the processes outside
    return (["files"] if shut and own else []) + (["sight"] if all(covered) else [])


def _watch(child: int) -> None:
    """Wait for `child` and end as it ended. Number 1 reaps what its processes leave."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            ended, status = os.wait()
        except ChildProcessError:
            os._exit(1)
        if ended == child:
            # Number 1 cannot kill itself; its code says what killed the other.
            os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
