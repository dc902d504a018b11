"""Keeps one replica: runs its command, keeps its log within bounds, and writes down how it ended.

Run as a script by the process driver,
`python -I -S keeper.py FOLDER TERM WORKDIR EXECUTABLE ARGV...`, in a session and process group of
its own, so that it and its command outlive the session manager. It imports nothing but what Python
has loaded anyway: it starts in some 10 ms.

In FOLDER it writes:
- `log/`: what the command writes to stdout and stderr, in files named by the position of their
  first byte. When a file is full the next one begins, and only the last two are kept. Beside
  each lies one with `.times` at its name's end: when which byte was read, as `log_times` tells.
  What a full disk does not take is lost; a line says so, once there is room again.
- `pid`: the process id of the command.
- `exit.new`: room for `exit`, so that a full disk does not hide how the command ended.
- `exit`: once the command has ended, its exit code (128 and the signal's number where a signal
  killed it), and on a second line the name of the error where it could not be executed.

Where the file `term` beside FOLDER names a later term of leading than TERM, it runs and writes
nothing: a session manager that leads no more, and did not know, has started it.

A SIGTERM to the group reaches the command; the keeper lives on to write down the end. Whatever
else is left of the group then goes with it.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time

# One of the two files that are kept; so a log has between 5 and 10 MiB.
SEGMENT_BYTES = 5 << 20
# As many notes as a full file has lines of 40 bytes. With shorter ones the next file begins sooner.
TIMES_BYTES = 2 << 20
# What is read so soon after a noted time counts as read at that time.
_TIME_STEP_NS = 10_000_000
_READ_BYTES = 65536
# More than a pipe holds: what a surviving grandchild goes on to write is not waited for.
_DRAIN_BYTES = 1 << 20
_SIGNAL_BASE = 128
_CANNOT_EXECUTE = 126
_EXIT_BYTES = 64
_NEWLINE = 10
_FIRST_FD = 3
_LAST_FD = 65536


class _Log:
    """The log as files of bounded size; a full disk loses lines and never stops the replica."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._bases: list[int] = []
        self._position = 0
        self._size = 0
        self._file = -1
        self._times = -1
        self._times_size = 0
        self._noted_ns = 0
        self._lost = 0
        self._in_line = False
        self._open()

    def write(self, data: bytes) -> None:
        """Append bytes, and begin the next file where this one is full."""
        if self._file < 0 or self._size >= SEGMENT_BYTES or self._times_size >= TIMES_BYTES:
            self._open()
        if self._lost and not self._tell_lost():
            self._lost += len(data)
            return
        self._note(time.time_ns())
        self._lost = self._append(data)

    def _tell_lost(self) -> bool:
        """Write how much is missing here; return whether there is room again."""
        told = f"[podbay: {self._lost} bytes of the log are lost: no room on the disk]\n"
        if self._append(("\n" + told if self._in_line else told).encode()):
            return False
        if self._times < 0 and self._bases:
            self._open_times(self._bases[-1])
        return True

    def _append(self, data: bytes) -> int:
        """Write as much as there is room for; return how many bytes are left."""
        view = memoryview(data)
        while view:
            try:
                written = os.write(self._file, view)
            except OSError:
                # No room or no folder: the replica matters more than its log.
                break
            self._position += written
            self._size += written
            self._in_line = view[written - 1] != _NEWLINE
            view = view[written:]
        return len(view)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            file = os.open(f"{self._folder}/{self._position:020d}", flags, 0o600)
        except OSError:
            self._size = 0
            return
        if self._file >= 0:
            os.close(self._file)
        self._file = file
        self._size = 0
        self._open_times(self._position)
        self._bases.append(self._position)
        for base in self._bases[:-2]:
            _unlink(f"{self._folder}/{base:020d}")
            _unlink(f"{self._folder}/{base:020d}.times")
        self._bases = self._bases[-2:]

    def _open_times(self, base: int) -> None:
        if self._times >= 0:
            os.close(self._times)
        self._times = -1
        self._times_size = 0
        self._noted_ns = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self._times = os.open(f"{self._folder}/{base:020d}.times", flags, 0o600)
        except OSError:
            return  # the times of these lines will not be known

    def _note(self, now_ns: int) -> None:
        """Note that what is written next was read now."""
        # The clock may have been set back.
        if self._times < 0 or 0 <= now_ns - self._noted_ns < _TIME_STEP_NS:
            return
        note = self._position.to_bytes(8, "big") + (now_ns // 1000).to_bytes(8, "big")
        try:
            whole = os.write(self._times, note) == len(note)
        except OSError:
            whole = False
        if whole:
            self._noted_ns = now_ns
            self._times_size += len(note)
            return
        # Without this note, what follows would seem as old as the one before.
        os.close(self._times)
        self._times = -1
        _unlink(f"{self._folder}/{self._bases[-1]:020d}.times")


def _unlink(path: str) -> None:
    try:
        os.unlink(path)  # pathlib would triple the time that a start takes
    except FileNotFoundError:
        return


def _open_new(path: str) -> int:
    return os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _reserve(path: str, size: int) -> None:
    """Take the room that a file will need."""
    try:
        file = _open_new(path)
        os.write(file, b" " * size)
        os.close(file)
    except OSError:
        return  # there may be room by then


def _write_whole(path: str, text: str) -> None:
    """Write a file so that nobody sees half of it."""
    try:
        file = _open_new(path)
        os.write(file, text.encode())
        os.ftruncate(file, len(text))
        os.close(file)
        os.rename(f"{path}.new", path)  # see _unlink
    except OSError as error:
        # The session manager then knows that it ended, and not how.
        os.write(2, f"podbay keeper: {path}: {error.strerror}\n".encode())


def _spawn(executable: str, argv: list[str], output: int) -> int:
    return os.posix_spawn(
        executable,
        argv,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ],
        # Python ignores these for itself; a command expects them as they are.
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
    )


def _pump(source: int, wakeup: int, child: int, log: _Log) -> int:
    """Move what the command writes into the log until it has ended; return its wait status."""
    poll = select.poll()
    poll.register(source, select.POLLIN)
    poll.register(wakeup, select.POLLIN)
    while True:
        for descriptor, _event in poll.poll():
            if descriptor == source:
                data = os.read(source, _READ_BYTES)
                if data:
                    log.write(data)
                else:
                    poll.unregister(source)
            else:
                os.read(wakeup, 512)
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid == child:
            return status


def _drain(source: int, log: _Log) -> None:
    """Take over what the command wrote last."""
    os.set_blocking(source, False)
    taken = 0
    while taken < _DRAIN_BYTES:
        try:
            data = os.read(source, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            return
        log.write(data)
        taken += len(data)


def _is_past(folder: str, term: int) -> bool:
    """Say whether another session manager leads since."""
    try:
        file = os.open(f"{os.path.dirname(folder)}/term", os.O_RDONLY | os.O_CLOEXEC)  # see _unlink
    except OSError:
        return False
    try:
        return int(os.read(file, 32)) > term
    finally:
        os.close(file)


def main(folder: str, term: int, working_dir: str, executable: str, argv: list[str]) -> None:
    """Run a command to its end.

    Args:
        folder: Where to write.
        term: In which term of leading it was started.
        working_dir: Where the command runs; empty for where this process does.
        executable: The path of the program.
        argv: Its arguments, its own name first.
    """
    os.closerange(_FIRST_FD, _LAST_FD)
    if _is_past(folder, term):
        return
    asked: list[int] = []
    # Handlers, not SIG_IGN, which the command would inherit.
    signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
    signal.signal(signal.SIGINT, lambda number, _frame: asked.append(number))
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    wakeup_in, wakeup_out = os.pipe()
    os.set_blocking(wakeup_in, False)
    os.set_blocking(wakeup_out, False)
    signal.set_wakeup_fd(wakeup_out, warn_on_full_buffer=False)
    log = _Log(f"{folder}/log")
    _reserve(f"{folder}/exit", _EXIT_BYTES)
    source, output = os.pipe()
    try:
        if working_dir:
            os.chdir(working_dir)
        child = _spawn(executable, argv, output)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "")
        log.write(f"{executable} cannot be executed: {error.strerror}\n".encode())
        _write_whole(f"{folder}/exit", f"{_CANNOT_EXECUTE}\n{name}\n")
        return
    os.close(output)
    _write_whole(f"{folder}/pid", f"{child}\n")
    if asked:
        # It came before there was a command to receive it.
        os.kill(child, signal.SIGTERM)
    code = os.waitstatus_to_exitcode(_pump(source, wakeup_in, child, log))
    _drain(source, log)
    _write_whole(f"{folder}/exit", f"{code if code >= 0 else _SIGNAL_BASE - code}\n")
    # What the command left behind in its group ends with it, and so does this process.
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5:])
