"""Reasons for which the kernel refuses a BPF iterator."""

from __future__ import annotations

from resource import RLIM_INFINITY

import pytest

from minerwatch.node.bpf_iterator import locked_memory_refusal


@pytest.mark.parametrize("release", ["5.10.0-32-amd64", "5.8.0", "5.10"])
def test_old_kernels_count_bpf_as_locked_memory(release: str) -> None:
    said = locked_memory_refusal(release, 65536, 65536)
    assert "limited to 64 KiB" in said
    assert "LimitMEMLOCK=infinity" in said
    assert "\n" not in said


@pytest.mark.parametrize("release", ["5.11.0", "6.1.0-50-amd64", "7.2.12", "unknown"])
def test_newer_kernels_do_not(release: str) -> None:
    assert locked_memory_refusal(release, 65536, 65536) == ""


def test_a_limit_that_libbpf_may_raise_is_no_reason() -> None:
    assert locked_memory_refusal("5.10.0", 65536, RLIM_INFINITY) == ""
    assert locked_memory_refusal("5.10.0", RLIM_INFINITY, RLIM_INFINITY) == ""
