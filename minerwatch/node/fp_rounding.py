"""Rounding modes of threads, from samples of the floating-point control word.

RandomX sets the rounding mode for every program that it runs and flushes denormals to zero
(its specification, 5.4 "Floating point"). Ordinary programs do not change the control word; the few
that do use two or three modes. Four modes with flush-to-zero are as good as proof.
"""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import dataclass, field

_X86_ROUNDING_SHIFT = 13  # MXCSR bits 13 and 14 (Intel SDM volume 1, 10.2.3)
_X86_FLUSHES = 1 << 15 | 1 << 6  # flush-to-zero and denormals-are-zero
_ARM_ROUNDING_SHIFT = 22  # FPCR bits 22 and 23 (Arm ARM, C5.2.8)
_ARM_FLUSHES = 1 << 24

MIN_SAMPLES = 16
"""So many samples show all four modes; fewer prove nothing."""
ENOUGH_ROUNDS = 48
_MIN_SPACING_S = 0.01
"""Closer samples of one thread repeat each other."""
_MAX_THREADS = 4096


def rounding_mode(fp_control: int, machine: str = platform.machine()) -> int:
    """Return 0 to 3; 0 is round-to-nearest on all machines."""
    shift = _ARM_ROUNDING_SHIFT if machine == "aarch64" else _X86_ROUNDING_SHIFT
    return fp_control >> shift & 3


def flushes_to_zero(fp_control: int, machine: str = platform.machine()) -> bool:
    """Return True if denormals are flushed, as operands and as results."""
    mask = _ARM_FLUSHES if machine == "aarch64" else _X86_FLUSHES
    return fp_control & mask == mask


@dataclass(frozen=True, slots=True)
class Rounding:
    """Summary of the samples of one process.

    Shares count only threads that ever did not round to nearest, or all threads if none did. Other
    threads therefore cannot hide one that hashes.
    """

    share: float  # of samples that do not round to nearest
    modes: int  # distinct modes seen in any thread, of 4
    flush_to_zero_share: float  # of those, or of all if there are none
    samples: int


@dataclass(slots=True)
class RoundingSamples:
    """Samples of one process's running threads. Pure: the clock is passed in."""

    machine: str = platform.machine()
    rounds: int = 0
    """Times at which at least one thread was sampled."""
    _began_s: float | None = None
    _round_s: float | None = None
    _tallies: dict[int, Counter[tuple[int, bool]]] = field(default_factory=dict)
    """Of a thread: mode and flushes."""
    _last: dict[int, tuple[float, int | None]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Return the number of samples."""
        return sum(tally.total() for tally in self._tallies.values())

    @property
    def threads(self) -> int:
        """Return the number of threads that are kept."""
        return len(self._last)

    def add(self, at_s: float, tid: int, fp_control: int, switches: int | None = None) -> None:
        """Add a sample of a thread, unless it can only repeat an earlier one.

        ``switches``: the thread's context switches, if the word was saved at the last one; None:
        the word is current. A saved word of the first round does not count, because an idle thread
        was switched out long ago.
        """
        if self.rounds >= ENOUGH_ROUNDS and at_s != self._round_s:
            return
        if self._began_s is None:
            self._began_s = at_s
        last = self._last.get(tid)
        if last is None and len(self._last) >= _MAX_THREADS:
            return
        if last is not None and (
            at_s - last[0] < _MIN_SPACING_S or (switches is not None and switches == last[1])
        ):
            return
        self._last[tid] = (at_s, switches)
        if switches is not None and at_s == self._began_s:
            return
        mode = rounding_mode(fp_control, self.machine)
        flushes = flushes_to_zero(fp_control, self.machine)
        self._tallies.setdefault(tid, Counter())[mode, flushes] += 1
        if at_s != self._round_s:
            self._round_s = at_s
            self.rounds += 1

    def rounding(self) -> Rounding | None:
        """Return the summary; None while there are too few samples."""
        if self.count < MIN_SAMPLES:
            return None
        odd_threads = [each for each in self._tallies.values() if any(mode for mode, _ in each)]
        telling: Counter[tuple[int, bool]] = Counter()
        for tally in odd_threads or self._tallies.values():
            telling.update(tally)
        # Between two hashes RandomX restores the earlier mode: those samples prove nothing.
        odd = Counter({each: n for each, n in telling.items() if each[0]})
        of_flushing = odd or telling
        flushing = sum(n for (_, flushes), n in of_flushing.items() if flushes)
        return Rounding(
            share=odd.total() / telling.total(),
            # A thread that was sampled once may have rounded to nearest at that moment.
            modes=len({mode for tally in self._tallies.values() for mode, _ in tally}),
            flush_to_zero_share=flushing / of_flushing.total(),
            samples=telling.total(),
        )
