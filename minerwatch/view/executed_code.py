"""Facts on executed code as text for people: one word, or one sentence."""

from __future__ import annotations

from collections.abc import Mapping

from minerwatch.format import byte_size, counted

_RANDOMX_PAIRS = 0.01  # as rules/compute/randomx_executed.yml
_RANDOMX_GENERATED = 0.5
_GENERATED = 0.8
_HIDDEN = 0.05  # as rules/compute/hidden_code.yml
_HASHES = 0.3  # as rules/compute/hash_code.yml
_NO_FLOATS = 0.01
_MANY = 0.1
_MIN_SHARE = 0.005
_MIN_BYTES = 1024.0  # a second of CPU
_KINDS = {
    "MixingCodeShare": "integers mixed (xor, rotate, multiply)",
    "VectorCodeShare": "integer vectors",
    "FloatCodeShare": "floating point",
    "RoundingCodeShare": "changes of the rounding mode",
}


def one_word(executed: Mapping[str, float]) -> str:
    """Return what is executed in one word; "" if too little is known."""
    if not executed:
        return ""
    of = executed.get
    if of("HiddenCodeShare", 0.0) >= _HIDDEN:
        return "hidden"
    generated, floats = of("AnonymousCodeShare", 0.0), of("FloatCodeShare", 0.0)
    if generated >= _RANDOMX_GENERATED and of("PairConversionShare", 0.0) >= _RANDOMX_PAIRS:
        return "randomx"
    if of("HashCodeShare", 0.0) >= _HASHES and floats <= _NO_FLOATS:
        return "hashing"
    if floats >= _MANY:
        return "floats"
    if of("VectorCodeShare", 0.0) >= _MANY:
        return "vectors"
    return "generated" if generated >= _GENERATED else "other"


def sentence(executed: Mapping[str, float]) -> str:
    """Return where the code lies, what it is made of, and how much data it moves; "" if unknown."""
    if not executed:
        return ""
    hidden = executed.get("HiddenCodeShare", 0.0)
    if hidden < _HIDDEN:
        return _readable(executed)
    rest = f"; the rest: {_readable(executed)}" if "HashCodeShare" in executed else ""
    return f"{hidden:.0%} of the code that it executes cannot be read{rest}"


def _readable(executed: Mapping[str, float]) -> str:
    if "HotCodePages" not in executed:
        pairs = executed.get("PairConversionShare", 0.0)
        return f"code of unknown origin: {pairs:.1%} floats by pairs, integers mixed"
    pages = counted(round(executed.get("HotCodePages", 0)), "page")
    generated = executed.get("AnonymousCodeShare", 0.0)
    where = f"{pages} of code" + (f", {generated:.0%} of it in no file" if generated else "")
    kinds = [
        f"{executed[name]:.1%} {kind}"
        for name, kind in _KINDS.items()
        if executed.get(name, 0.0) >= _MIN_SHARE
    ]
    made_of = ", ".join(kinds) or "loads, stores, branches and sums"
    hashing = executed.get("HashCodeShare", 0.0)
    dense = f"; {hashing:.0%} as dense as hash functions" if hashing >= _MIN_SHARE else ""
    moved = executed.get("IoBytesPerCpuSecond")
    return f"{where}: {made_of}{dense}{'' if moved is None else _data(moved)}"


def _data(moved: float) -> str:
    if moved < _MIN_BYTES:
        return "; no data read or written"
    return f"; {byte_size(round(moved))} read and written per second of CPU"
