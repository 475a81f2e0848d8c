"""A node full of containers: real cgroups with sleeping processes, which can be replaced."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from benchmarks.table import NotHereError

CONTAINERS_A_POD = 2
TOP = f"minerwatch-bench-{os.getpid()}"
"""The cgroup of this process's own; others may measure at the same time."""

# Forks a sleeper for each line, into the cgroup that it names and with the arguments after it, and
# prints its pid. It goes there itself first, for a move costs much more than a fork; vfork returns
# when the sleeper is one.
_FORKER = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
static char here[4096];
static int move(const char *folder) {
  char path[4200];
  if (!strcmp(folder, here)) return 0;
  snprintf(path, sizeof path, "%s/cgroup.procs", folder);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  int failed = fd < 0 || write(fd, "0", 1) != 1;
  close(fd);
  if (!failed) strcpy(here, folder);
  return failed;
}
int main(int count, char **arguments) {
  static char line[8192];
  if (!strcmp(arguments[0], "sleep")) for (;;) pause();
  char *home = arguments[2];
  signal(SIGCHLD, SIG_IGN);
  while (fgets(line, sizeof line, stdin)) {
    line[strcspn(line, "\n")] = 0;
    if (!*line) {
      move(home);
      puts("");
      fflush(stdout);
      continue;
    }
    char *command = strchr(line, '\t');
    *command++ = 0;
    char *words[32] = {"sleep"};
    int number = 1;
    for (char *word = strtok(command, " "); word && number < 31; word = strtok(0, " "))
      words[number++] = word;
    if (move(line)) { puts("0"); continue; }
    pid_t child = vfork();
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      execv(arguments[1], words);
      _exit(1);
    }
    printf("%d\n", child);
  }
}
"""


def writable_root() -> Path:
    """The hierarchy in which cgroups are made and seen."""
    mounts = Path("/sys/fs/cgroup")
    if (mounts / "cgroup.controllers").exists():
        return mounts
    names = ("cpuacct", "cpu,cpuacct")
    found = next((mounts / name for name in names if (mounts / name).exists()), None)
    if found is None or not os.access(found, os.W_OK):
        raise NotHereError("no cgroup hierarchy can be written to")
    return found


def compiled(folder: Path, name: str, source: str, options: tuple[str, ...] = ()) -> Path:
    """A program made of C; raises NotHereError where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise NotHereError("needs a C compiler")
    (folder / f"{name}.c").write_text(source)
    command = [compiler, "-O2", "-w", *options, "-o", str(folder / name), str(folder / f"{name}.c")]
    subprocess.run(command, check=True)
    return folder / name


class Crowd:
    """Containers named as the kubelet names them, two a pod, and sleeping processes in them."""

    def __init__(self, folder: Path, containers: int, below: str = "") -> None:
        """``folder`` is for the program that sleeps, ``below`` a cgroup. Raises NotHereError."""
        self._top = writable_root() / below / "kubepods"
        if self._top.exists():
            raise NotHereError(f"{self._top} is in use")
        self._program = compiled(folder, "sleep", _FORKER, ("-static",))
        self._sleepers: deque[tuple[int, Path]] = deque()
        self._next = 0
        self._made = 0
        self._last_started = 0
        self.folders: list[Path] = []
        home = writable_root()
        self._forker = subprocess.Popen(
            [self._program, self._program, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(containers):
            self.folders.append(self._new_folder())

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._sleepers)

    def grow(self, processes: int, command: str = "100000") -> None:
        """Until there are so many, in all containers alike."""
        places = []
        for _ in range(processes - len(self._sleepers)):
            places.append(self.folders[self._next % len(self.folders)])
            self._next += 1
        self._sleepers.extend(self._start(places, command))

    def replace(self, processes: int, command: str = "100000") -> None:
        """Ends the oldest and starts others in their containers."""
        places = []
        for _ in range(min(processes, len(self._sleepers))):
            pid, place = self._sleepers.popleft()
            _kill(pid)
            places.append(place)
        self._sleepers.extend(self._start(places, command))

    def start_in(self, folder: Path, command: str, *, in_place_of_last: bool = False) -> None:
        """One more process, which is left alone; or ends the one that was started so before."""
        if in_place_of_last:
            _kill(self._last_started)
        self._last_started = self._start([folder], command)[0][0]

    def replace_container(self, place: int) -> int:
        """Ends a container and starts another with as many processes; the new one's number."""
        before, after = self.folders[place], self._new_folder()
        self.folders[place] = after
        ended = [each for each in self._sleepers if each[1] == before]
        self._sleepers = deque(each for each in self._sleepers if each[1] != before)
        for pid, _ in ended:
            _kill(pid)
        self._sleepers.extend(self._start([after] * len(ended), "100000"))
        _remove([before])
        with suppress(OSError):
            before.parent.rmdir()
        return self._made - 1

    def close(self) -> None:
        """Ends all and removes the cgroups."""
        self._forker.kill()
        self._forker.wait()
        for pipe in (self._forker.stdin, self._forker.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        for pid, _ in self._sleepers:
            _kill(pid)
        pods = dict.fromkeys(folder.parent for folder in self.folders)
        own = [self._top.parent] if self._top.parent.name == TOP else []
        _remove([*self.folders, *pods, self._top / "burstable", self._top, *own])

    def _new_folder(self) -> Path:
        pod, name = pod_uid(self._made // CONTAINERS_A_POD), container_id(self._made)
        self._made += 1
        folder = self._top / "burstable" / f"pod{pod}" / name
        folder.mkdir(parents=True)
        return folder

    def _start(self, places: Iterable[Path], command: str) -> list[tuple[int, Path]]:
        wanted = sorted(places)
        assert self._forker.stdin
        assert self._forker.stdout
        started: list[tuple[int, Path]] = []
        for at in range(0, len(wanted), 200):  # both pipes hold that much
            batch = wanted[at : at + 200]
            self._forker.stdin.write("".join(f"{place}\t{command}\n" for place in batch) + "\n")
            self._forker.stdin.flush()
            for place in batch:
                pid = int(self._forker.stdout.readline())
                if pid <= 0:
                    raise NotHereError("processes cannot be started in cgroups of their own")
                started.append((pid, place))
            self._forker.stdout.readline()
        return started


def pod_uid(number: int) -> str:
    """Of the pod of that number."""
    return f"00000000-0000-4000-8000-{number:012}"


def container_id(number: int) -> str:
    """Of the container of that number; the first twelve digits tell them apart."""
    return f"{number + 1:012x}" + "0" * 52


def own_container_id(number: int) -> str:
    """The same, of this process and no other: an agent sees those of other benchmarks, too."""
    return f"{number + 1:06x}{os.getpid() & 0xFFFFFF:06x}" + "0" * 52


def _kill(pid: int) -> None:
    """Ends a sleeper, and nobody else who may have its pid by now."""
    with suppress(OSError):
        if b"/kubepods/" in Path(f"/proc/{pid}/cgroup").read_bytes():
            os.kill(pid, signal.SIGKILL)


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        for _ in range(500):
            with suppress(OSError):
                for pid in (folder / "cgroup.procs").read_text().split():
                    _kill(int(pid))
            try:
                folder.rmdir()
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.01)
            else:
                break
