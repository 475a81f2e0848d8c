"""How threads round: samples of the floating-point control word, and what they say.

RandomX sets the rounding mode for every program that it runs and flushes denormals to zero
(its specification, 5.4 "Floating point"). Ordinary programs leave the control word alone; the few
that do not use two or three modes. So four modes together with flush-to-zero are as good as proof.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

_X86_ROUNDING_SHIFT = 13  # MXCSR bits 13 and 14 (Intel SDM volume 1, 10.2.3)
_X86_FLUSHES = 1 << 15 | 1 << 6  # flush-to-zero and denormals-are-zero
_ARM_ROUNDING_SHIFT = 22  # FPCR bits 22 and 23 (Arm ARM, C5.2.8)
_ARM_FLUSHES = 1 << 24

LEAST_SAMPLES = 16
"""Four modes show in as many; fewer say nothing."""
ENOUGH_SAMPLES = 48
_LEAST_SPACING_S = 0.01
"""Closer samples of one thread repeat each other."""
_MAX_THREADS = 1024


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
    """What the samples of one process say: those of threads that ever rounded otherwise.

    Where no thread did, all count. So threads that do other things cannot hide one that hashes.
    """

    share: float  # of samples that do not round to nearest, 0..1
    modes: int  # distinct modes seen, of 4
    flush_to_zero_share: float  # of those that do not round to nearest, or else of all, 0..1
    samples: int


class RoundingSamples:
    """Samples of one process's running threads. Pure: the clock is passed in."""

    __slots__ = ("_last", "_machine", "_samples")

    def __init__(self, machine: str = platform.machine()) -> None:
        self._machine = machine
        self._samples: list[tuple[int, int, bool]] = []  # thread, mode, flushes
        self._last: dict[int, tuple[float, int | None]] = {}

    @property
    def count(self) -> int:
        """How many have been taken."""
        return len(self._samples)

    def add(self, at_s: float, tid: int, fp_control: int, switches: int | None = None) -> None:
        """Takes a sample of a thread, unless it can only repeat the thread's last one.

        ``switches`` is how often the thread has been switched out, where the word is that of its
        last switch; None: the word is that of this moment.
        """
        if self.count >= ENOUGH_SAMPLES:
            return
        last = self._last.get(tid)
        if last is not None:
            last_s, last_switches = last
            repeats = at_s - last_s < _LEAST_SPACING_S
            if repeats or (switches is not None and switches == last_switches):
                return
        elif len(self._last) >= _MAX_THREADS:
            return
        self._last[tid] = (at_s, switches)
        mode = rounding_mode(fp_control, self._machine)
        self._samples.append((tid, mode, flushes_to_zero(fp_control, self._machine)))

    def rounding(self) -> Rounding | None:
        """What the samples say; None while there are too few."""
        if self.count < LEAST_SAMPLES:
            return None
        odd_threads = {tid for tid, mode, _ in self._samples if mode}
        telling = [each for each in self._samples if each[0] in odd_threads or not odd_threads]
        # Between two hashes RandomX restores what it found: such samples say nothing of it.
        odd = [each for each in telling if each[1]]
        flushing = [flushes for _, _, flushes in odd or telling]
        return Rounding(
            share=len(odd) / len(telling),
            modes=len({mode for _, mode, _ in telling}),
            flush_to_zero_share=sum(flushing) / len(flushing),
            samples=len(telling),
        )
