"""Counts of classified samples of executed code, to facts. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from minerwatch.detection.facts import measured
from minerwatch.model import FactValue

MIN_SAMPLES = 100
"""Fewer prove nothing: at 19 a second, 5 s of CPU time."""
_MAX_SAMPLES = 400
"""With more, all counts are halved, so that they follow what is executed now."""
_MAX_PAGES = 512
_HOT_SHARE = 0.9
_MIN_IO_CPU_S = 1.0
_MIN_CONVERSIONS = 0.0003
"""Share of the instructions: one in 200 samples. RandomX without generated code: 0.001 to 0.005."""
_MAX_FILE_MIB = 128.0
"""Larger files count as much, so that one sample in a thousand does not explain the others."""

INSTRUCTIONS = 16
"""Of one sample, at most."""
CLASSES = (
    *("xor", "rotate", "multiply", "vector", "media", "cipher", "float", "pairs", "rounding"),
    "branch",
    "other",
)
"""In the order of node/children/instruction_classes.py."""


@dataclass(slots=True)
class _Part:
    """Number of some samples among all that are counted with them, over the last few hundred."""

    part: float = 0.0
    whole: float = 0.0

    def add(self, part: float, whole: float) -> None:
        """Add samples; halve both numbers if there are many."""
        self.part += part
        self.whole += whole
        if self.whole >= _MAX_SAMPLES:
            self.halve()

    def halve(self) -> None:
        """Halve both numbers: the share remains."""
        self.part /= 2
        self.whole /= 2

    @property
    def share(self) -> float:
        """Return the part of the whole, 0 to 1."""
        return self.part / (self.whole or 1)


@dataclass(slots=True)
class CodeTally:
    """Counts over the last few hundred samples.

    Pairs and hidden code have counts of their own, which include samples of which less is known:
    however many of those there are, the other counts are not halved for them.
    """

    samples: float = 0.0  # of known origin
    pairs: _Part = field(default_factory=_Part)  # of all that were classified
    hidden: _Part = field(default_factory=_Part)  # of all, also those whose code cannot be read
    hashing: float = 0.0
    anonymous: float = 0.0
    classes: Counter[str] = field(default_factory=Counter)
    pages: Counter[str] = field(default_factory=Counter)
    io_bytes: float = 0.0
    io_cpu_s: float = 0.0  # CPU time in which they were read and written
    kernel_s: float = 0.0  # of that, in the kernel
    file_mib_samples: float = 0.0  # sum over samples of the largest file that is mapped

    def add(
        self,
        samples: int,
        hashing: int,
        anonymous: int,
        pairs: int,
        classes: Sequence[int],
        pages: Mapping[str, int],
        *,
        of_unknown_origin: int = 0,
    ) -> None:
        """Add what the classifier counted.

        Samples ``of_unknown_origin`` are further ones, which are counted in ``pairs`` only.
        """
        classified = samples + of_unknown_origin
        self.pairs.add(pairs, classified)
        self.hidden.add(0, classified)
        self.samples += samples
        self.hashing += hashing
        self.anonymous += anonymous
        for name, count in zip(CLASSES, classes, strict=True):
            self.classes[name] += count
        self.pages.update(pages)
        if len(self.pages) > _MAX_PAGES:
            self.pages = Counter(dict(self.pages.most_common(_MAX_PAGES // 2)))
        if self.samples >= _MAX_SAMPLES:
            self._halve_known()

    def make_room(self, samples: int) -> None:
        """Halve the counts until they rest on as few samples as are enough: new ones weigh more.

        Only if ``samples``, the number of new ones, is enough by itself.
        """
        while samples >= MIN_SAMPLES < self.samples:
            self._halve_known()
            self.pairs.halve()
            self.hidden.halve()

    def facts(self) -> dict[str, FactValue]:
        """Return the facts; none while there are too few samples."""
        hidden, pairs = self.hidden, self.pairs
        is_enough = max(hidden.part, hidden.whole - hidden.part) >= MIN_SAMPLES
        seen = measured(
            HiddenCodeShare=hidden.share if hidden.part and is_enough else None,
            PairConversionShare=pairs.share if pairs.whole >= MIN_SAMPLES else None,
        )
        if self.samples < MIN_SAMPLES:
            return seen
        of = self._share
        return (
            measured(
                HashCodeShare=self.hashing / self.samples,
                MixingCodeShare=of("xor") + of("rotate") + of("multiply"),
                FloatCodeShare=of("float") + of("pairs"),
                RoundingCodeShare=of("rounding"),
                VectorCodeShare=of("vector") + of("media"),
                AnonymousCodeShare=self.anonymous / self.samples,
                HotCodePages=self._hot_pages(),
                IoBytesPerCpuSecond=self._per_cpu_second(self.io_bytes),
                KernelCpuShare=self._per_cpu_second(self.kernel_s),
            )
            | seen
        )

    def add_hidden(self, samples: int) -> None:
        """Add samples whose code cannot be read, though the process runs."""
        self.hidden.add(samples, samples)

    def add_io(self, io_bytes: int, cpu_s: float, kernel_s: float) -> None:
        """Add what was read and written within some CPU time, a part of it in the kernel."""
        self.io_bytes += io_bytes
        self.io_cpu_s += cpu_s
        self.kernel_s += kernel_s

    def add_file(self, samples: int, largest_mib: float) -> None:
        """Add samples of a process whose largest mapped file has this size."""
        self.file_mib_samples += samples * min(max(0.0, largest_mib), _MAX_FILE_MIB)

    @property
    def seen(self) -> float:
        """Return the number of all samples, however much is known of them."""
        return self.hidden.whole

    @property
    def converts_pairs(self) -> bool:
        """Return True if pairs of integers are converted to floats, wherever that is."""
        return self.samples >= MIN_SAMPLES and self._share("pairs") >= _MIN_CONVERSIONS

    @property
    def file_mib(self) -> float:
        """Return the average over samples: a file that an idle process maps counts little."""
        return self.file_mib_samples / (self.samples or 1)

    def _per_cpu_second(self, sum_: float) -> float | None:
        return sum_ / self.io_cpu_s if self.io_cpu_s >= _MIN_IO_CPU_S else None

    def _share(self, name: str) -> float:
        return self.classes[name] / (self.classes.total() or 1)

    def _hot_pages(self) -> int:
        """Return the number of pages that hold 90 % of the samples."""
        left = _HOT_SHARE * self.pages.total()
        for number, (_, count) in enumerate(self.pages.most_common(), 1):
            left -= count
            if left <= 0:
                return number
        return len(self.pages)

    def _halve_known(self) -> None:
        self.samples /= 2
        self.hashing /= 2
        self.anonymous /= 2
        self.io_bytes /= 2
        self.io_cpu_s /= 2
        self.kernel_s /= 2
        self.file_mib_samples /= 2
        for counts in (self.classes, self.pages):
            for name in counts:
                counts[name] /= 2  # type: ignore[assignment]
        self.pages = Counter({page: count for page, count in self.pages.items() if count >= 0.5})
