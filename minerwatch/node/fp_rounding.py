"""How threads round: samples of the floating-point control word, and what they say.

RandomX sets the rounding mode for every program that it runs and flushes denormals to zero
(its specification, 5.4 "Floating point"). Ordinary programs leave the control word alone; the few
that do not use two or three modes. So four modes together with flush-to-zero are as good as proof.
"""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import dataclass

_X86_ROUNDING_SHIFT = 13  # MXCSR bits 13 and 14 (Intel SDM volume 1, 10.2.3)
_X86_FLUSHES = 1 << 15 | 1 << 6  # flush-to-zero and denormals-are-zero
_ARM_ROUNDING_SHIFT = 22  # FPCR bits 22 and 23 (Arm ARM, C5.2.8)
_ARM_FLUSHES = 1 << 24

LEAST_SAMPLES = 16
"""Four modes show in as many; fewer say nothing."""
ENOUGH_ROUNDS = 48
_LEAST_SPACING_S = 0.01
"""Closer samples of one thread repeat each other."""
_MAX_THREADS = 4096


def rounding_mode(fp_control: int, machine: str = platform.machine()) -> int:
    """0 to 3; 0 is round-to-nearest on all machines."""
    shift = _ARM_ROUNDING_SHIFT if machine == "aarch64" else _X86_ROUNDING_SHIFT
    return fp_control >> shift & 3


def flushes_to_zero(fp_control: int, machine: str = platform.machine()) -> bool:
    """Whether denormals are flushed, as operands and as results."""
    mask = _ARM_FLUSHES if machine == "aarch64" else _X86_FLUSHES
    return fp_control & mask == mask


@dataclass(frozen=True, slots=True)
class Rounding:
    """What the samples of one process say.

    Shares are those of threads that ever rounded otherwise than to nearest; where no thread did,
    all count. So threads that do other things cannot hide one that hashes.
    """

    share: float  # of samples that do not round to nearest, 0..1
    modes: int  # distinct modes seen in any thread, of 4
    flush_to_zero_share: float  # of those that do not round to nearest, or else of all, 0..1
    samples: int


class RoundingSamples:
    """Samples of one process's running threads. Pure: the clock is passed in."""

    __slots__ = ("_began_s", "_last", "_machine", "_round_s", "_tallies", "rounds")

    def __init__(self, machine: str = platform.machine()) -> None:
        self.rounds = 0
        """Moments at which at least one thread was sampled."""
        self._machine = machine
        self._began_s: float | None = None
        self._round_s: float | None = None
        self._tallies: dict[int, Counter[tuple[int, bool]]] = {}  # of a thread: mode, flushes
        self._last: dict[int, tuple[float, int | None]] = {}

    @property
    def count(self) -> int:
        """How many have been taken."""
        return sum(tally.total() for tally in self._tallies.values())

    @property
    def threads(self) -> int:
        """Threads that something is remembered of."""
        return len(self._last)

    def add(self, at_s: float, tid: int, fp_control: int, switches: int | None = None) -> None:
        """Takes a sample of a thread, unless it can only repeat what is known of the thread.

        ``switches`` is how often the thread has been switched out, where the word is that of its
        last switch; None: the word is that of this moment. In the first case what is known at the
        beginning does not count: a thread that sleeps was switched out long ago.
        """
        if self.rounds >= ENOUGH_ROUNDS and at_s != self._round_s:
            return
        if self._began_s is None:
            self._began_s = at_s
        last = self._last.get(tid)
        if last is None and len(self._last) >= _MAX_THREADS:
            return
        if last is not None and (
            at_s - last[0] < _LEAST_SPACING_S or (switches is not None and switches == last[1])
        ):
            return
        self._last[tid] = (at_s, switches)
        if switches is not None and at_s == self._began_s:
            return
        mode = rounding_mode(fp_control, self._machine)
        flushes = flushes_to_zero(fp_control, self._machine)
        self._tallies.setdefault(tid, Counter())[mode, flushes] += 1
        if at_s != self._round_s:
            self._round_s = at_s
            self.rounds += 1

    def rounding(self) -> Rounding | None:
        """What the samples say; None while there are too few."""
        if self.count < LEAST_SAMPLES:
            return None
        odd_threads = [each for each in self._tallies.values() if any(mode for mode, _ in each)]
        telling: Counter[tuple[int, bool]] = Counter()
        for tally in odd_threads or self._tallies.values():
            telling.update(tally)
        # Between two hashes RandomX restores what it found: such samples say nothing of it.
        odd = Counter({each: n for each, n in telling.items() if each[0]})
        of_flushing = odd or telling
        flushing = sum(n for (_, flushes), n in of_flushing.items() if flushes)
        return Rounding(
            share=odd.total() / telling.total(),
            # A thread that was sampled once may have rounded to nearest just then.
            modes=len({mode for tally in self._tallies.values() for mode, _ in tally}),
            flush_to_zero_share=flushing / of_flushing.total(),
            samples=telling.total(),
        )
