"""CPU time and CPU limits of containers, from the counters of their cgroups."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from minerwatch.model import ContainerKind, CpuLimit
from minerwatch.node.cgroup_files import CgroupFiles, numbers, read_kept
from minerwatch.node.cgroup_state import IDLE_CHECK_TICKS, ContainerState, KnownTree, PodCgroup
from minerwatch.node.proc_files import CLOCK_TICKS_PER_S, read_once

_LINGER_TICKS = 2
"""Ticks for which a pod stays active after its counter last moved: the cgroup of a container that
has exited is removed a little later."""

_LIMIT_TICKS = 6
"""Ticks after which the cgroup with a container's tightest limit is looked up again."""

_MAX_US = 1 << 63
_PRESSURE_BYTES = 256


class CpuCounters:
    """Reads the CPU time and limits of containers, and finds out which of them are idle.

    If a container's counter has not advanced, no task in it ran, so none forked, exec'ed or exited.
    Its folders and members are then left alone, except once in ``IDLE_CHECK_TICKS``. A pod's own
    cgroup counts what all its containers use: if that has not advanced, theirs are not read either.
    """

    def __init__(self, known: KnownTree, files: CgroupFiles) -> None:
        self._known = known
        self._files = files

    def read_pod(self, pod: PodCgroup) -> None:
        """Find out whether a pod is active: a task in it ran lately, or it is its turn."""
        tick = self._known.tick
        try:
            usage = read_kept(pod.usage_fd)
        except OSError:  # mostly because it is gone, which its folder shows
            usage = None
        if usage is None or usage != pod.usage:
            pod.usage, pod.moved_tick = usage, tick
        pod.is_active = (
            tick - pod.moved_tick <= _LINGER_TICKS or (tick + pod.turn) % IDLE_CHECK_TICKS == 0
        )

    def read(self, used_s: dict[ContainerState, float]) -> None:
        """Add to ``used_s`` each container of an active pod that is not in it yet."""
        for group in self._known.active_groups():
            for state in group.containers.values():
                if state not in used_s:
                    used_s[state] = self._read(state)

    def share_out(self, used_s: Mapping[ContainerState, float]) -> None:
        """Add to each container's CPU time what it used itself, without nested containers."""
        states, cpu_s = self._known.states, self._known.cpu_s
        for state, with_nested_s in used_s.items():
            state.used_s = with_nested_s
        for state, with_nested_s in used_s.items():
            if state.outer is not None:
                state.outer.used_s -= with_nested_s
        for state in used_s:
            if state.used_s > 0 and states.get(state.key) is state:
                cpu_s[state.key] += state.used_s

    def _read(self, state: ContainerState) -> float:
        """Return the CPU seconds since the last reading, with those of nested containers."""
        usage_s = self._usage_s(state)
        used_s = 0.0 if usage_s is None else max(0.0, usage_s - state.inclusive_s)
        if usage_s is not None:
            state.inclusive_s = usage_s
        state.is_active = (
            used_s > 0
            or state.is_unread
            or usage_s is None  # mostly because it is gone
            or state.container.kind is ContainerKind.HOST
            or self._is_yet_to_run(state)
            or (self._known.tick + state.turn) % IDLE_CHECK_TICKS == 0
        )
        state.is_unread = False
        return used_s

    def _is_yet_to_run(self, state: ContainerState) -> bool:
        """Return True if it has not run yet, and its owner has no cgroups left out.

        It is then read at each tick until it runs.
        """
        if self._known.cpu_s[state.key] != 0.0:
            return False
        return not self._known.cgroups[state.path].charged.cut

    def _usage_s(self, state: ContainerState) -> float | None:
        """Return the CPU seconds of the cgroup (cgroup-v2.rst, cgroup-v1/cpuacct.rst)."""
        if state.usage_fd >= 0:
            try:
                content = read_kept(state.usage_fd)
            except OSError as error:
                self._files.count(error)
                return None
        else:
            read = self._files.content(state.path + b"/" + self._files.usage_file)
            if read is None:
                is_host = state.container.kind is ContainerKind.HOST
                return self._node_cpu_s() if is_host else None
            content = read
        try:
            if not self._files.is_v2:
                return int(content) / 1e9
            return int(content.split(None, 2)[1]) / 1e6  # usage_usec stands first
        except (ValueError, IndexError, OverflowError):
            self._files.failures["malformed"] += 1
            return None

    def _node_cpu_s(self) -> float | None:
        """Return the node's CPU seconds (proc_stat(5)): some kernels' root has no counter."""
        content = self._files.content(self._files.proc + b"/stat")
        if content is None:
            return None
        try:
            user, nice, system, _idle, _iowait, irq, softirq = content.split()[1:8]
        except ValueError:
            self._files.failures["malformed"] += 1
            return None
        return sum(map(int, (user, nice, system, irq, softirq))) / CLOCK_TICKS_PER_S

    # Limits (cgroup-v2.rst, scheduler/sched-bwc.rst).

    def limit(self, state: ContainerState) -> CpuLimit:
        """Return the tightest limit of a container's cgroup and those above, with its statistics.

        Throttling is counted where that limit is set.
        """
        tick = self._known.tick
        if state.limit_tick is None or tick - state.limit_tick >= _LIMIT_TICKS:
            state.limit_tick = tick
            state.limit_cores, state.limited_by = self._tightest(state.path)
        if state.limited_by is None or state.limit_cores is None:
            return CpuLimit(None, 0, 0)
        stat = numbers(self._files.content(state.limited_by + b"/cpu.stat") or b"")
        periods, throttled = stat.get(b"nr_periods", 0), stat.get(b"nr_throttled", 0)
        return CpuLimit(state.limit_cores, periods, throttled)

    def waited_s(self, state: ContainerState) -> float | None:
        """Return how long some thread has waited for a CPU (accounting/psi.rst); v1: None."""
        if not self._files.is_v2:
            return None
        with suppress(OSError, ValueError, IndexError):  # many kernels do not count it
            some = read_once(state.path + b"/cpu.pressure", _PRESSURE_BYTES)
            return int(some.split(b"total=", 1)[1].split(None, 1)[0]) / 1e6
        return None

    def _tightest(self, path: bytes) -> tuple[float | None, bytes | None]:
        root = self._files.limit_root
        folder = root + path.removeprefix(self._files.root)
        tightest: float | None = None
        where: bytes | None = None
        while len(folder) > len(root):
            cores = self._own_limit(folder)
            if cores is not None and (tightest is None or cores < tightest):
                tightest, where = cores, folder
            folder = folder.rpartition(b"/")[0]
        return tightest, where

    def _own_limit(self, folder: bytes) -> float | None:
        """Return the limit in cores that is set at ``folder`` itself."""
        content = self._files.content
        quota: bytes | None
        if self._files.is_v2 and self._files.limit_root == self._files.root:
            quota, _, period = (content(folder + b"/cpu.max") or b"max").partition(b" ")
        else:
            quota = content(folder + b"/cpu.cfs_quota_us") or b"-1"
            period = content(folder + b"/cpu.cfs_period_us") or b"0"
        with suppress(ValueError):
            if 0 < int(quota) < _MAX_US and 0 < int(period) < _MAX_US:
                return int(quota) / int(period)
        return None
