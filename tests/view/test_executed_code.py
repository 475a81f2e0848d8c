"""Executed code in words."""

from __future__ import annotations

import pytest

from minerwatch.view.executed_code import one_word, sentence

RANDOMX = {
    "HashCodeShare": 0.1,
    "MixingCodeShare": 0.52,
    "FloatCodeShare": 0.034,
    "PairConversionShare": 0.026,
    "RoundingCodeShare": 0.001,
    "VectorCodeShare": 0.0,
    "AnonymousCodeShare": 0.995,
    "HotCodePages": 6,
    "IoBytesPerCpuSecond": 120.0,
}
HASHING = {"HashCodeShare": 0.56, "MixingCodeShare": 0.33, "HotCodePages": 1}


@pytest.mark.parametrize(
    ("executed", "word"),
    [
        ({}, ""),
        (RANDOMX, "randomx"),
        (HASHING, "hashing"),
        ({"FloatCodeShare": 0.3, "HashCodeShare": 0.4}, "floats"),
        ({"VectorCodeShare": 0.2}, "vectors"),
        ({"AnonymousCodeShare": 1.0, "MixingCodeShare": 0.1}, "generated"),
        ({"AnonymousCodeShare": 0.1}, "other"),
        ({"PairConversionShare": 0.04}, "other"),  # it is not known where
        ({"HiddenCodeShare": 0.6, "HashCodeShare": 0.5}, "hidden"),
    ],
)
def test_one_word(executed: dict[str, float], word: str) -> None:
    assert one_word(executed) == word


def test_sentences() -> None:
    assert sentence({}) == ""
    assert sentence({"PairConversionShare": 0.04}) == (
        "code of unknown origin: 4.0% floats by pairs, integers mixed"
    )
    assert sentence({"HiddenCodeShare": 0.98}) == "98% of the code that it executes cannot be read"
    assert sentence({**HASHING, "HiddenCodeShare": 0.06}) == (
        "6% of the code that it executes cannot be read; the rest: " + sentence(HASHING)
    )
    assert sentence(RANDOMX) == (
        "6 pages of code, 100% of it in no file: 52.0% integers mixed (xor, rotate, multiply),"
        " 3.4% floating point; 10% as dense as hash functions; no data read or written"
    )
    assert sentence(HASHING) == (
        "1 page of code: 33.0% integers mixed (xor, rotate, multiply);"
        " 56% as dense as hash functions"
    )
    assert sentence({"HotCodePages": 40, "IoBytesPerCpuSecond": 3e8}) == (
        "40 pages of code: loads, stores, branches and sums;"
        " 286 MiB read and written per second of CPU"
    )
