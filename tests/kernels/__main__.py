"""Try the agent on Debian's kernels in virtual machines: ``make kernels``.

    python -m tests.kernels [--only SUITE[-ARCHITECTURE][/LAYOUT]]… [--write]

virtme-ng (PyPI) and qemu boot one kernel after the other, by KVM or emulated (TCG): x86-64 with
this machine's file system, read-only; arm64 with a small one made of Debian's packages. There the
agent runs with every probe, first beside a loop with a miner's arguments, then beside RandomX.
Lines of JSON go to build/kernels/results.jsonl; --write merges the last one of each kernel into
tests/kernels/results.jsonl and puts their table into the page. Needs root, on Debian:
apt install qemu-system-x86 qemu-system-arm kmod busybox-static file g++-aarch64-linux-gnu
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.table import machine
from tests.kernels import debian
from tests.kernels.results import (
    LAYOUTS,
    RESULT,
    Result,
    decoded,
    latest,
    report,
    table,
    with_table,
)

PAGE = debian.ROOT / "docs" / "should-i-install-this.md"
RESULTS = debian.BUILD / "results.jsonl"
PUBLISHED = Path(__file__).with_name("results.jsonl")
KERNELS = {
    "bullseye-amd64": LAYOUTS,
    "bookworm-amd64": LAYOUTS,
    "trixie-amd64": LAYOUTS,
    "testing-amd64": LAYOUTS,
    "trixie-arm64": ("v2",),
}
_MEMORY_MIB = 2048
_CLOCK = ("-icount", "shift=2", "-rtc", "clock=vm")
"""An instruction takes 4 ns: an emulated guest's time stops while qemu waits for a CPU."""
_KVM = Path("/dev/kvm")
_KVM_MODULES = tuple(Path("/sys/module", name) for name in ("kvm_intel", "kvm_amd"))
_PROGRAMS = ("apt-get", "dpkg-deb", "qemu-system-x86_64", "qemu-system-aarch64", "depmod", "file")


def main() -> int:
    """Return 0 if the agent found both targets on every kernel on which it can start."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[], metavar="KERNEL", help="one of them")
    parser.add_argument("--mirror", help="of Debian; else apt's")
    parser.add_argument("--limit", type=float, default=600, help="seconds to find each target")
    parser.add_argument("--hours", type=float, default=1, help="of this machine, for each guest")
    parser.add_argument("--cpus", type=int, default=1, help="of a guest")
    parser.add_argument(
        *("--accelerator", "-a"),
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="of x86-64 guests; auto: kvm where this machine has it",
    )
    parser.add_argument("--write", action="store_true", help=f"the table into {PAGE.name}")
    chosen = parser.parse_args()
    try:
        wanted = list(selected(chosen.only))
    except ValueError as error:
        parser.error(str(error))
    if missing := [each for each in _PROGRAMS if shutil.which(each) is None]:
        sys.exit(f"missing: {', '.join(missing)}; see --help")
    if os.geteuid() != 0:
        sys.exit("a guest's root reads this machine's files: run it as root")
    missing_kvm = why_no_kvm()
    if chosen.accelerator == "kvm" and missing_kvm:
        sys.exit(f"no KVM: {missing_kvm}; use --accelerator tcg")
    if chosen.accelerator == "auto":
        chosen.accelerator = "tcg" if missing_kvm else "kvm"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and the guest with it
    try:
        results = list(_tried(wanted, chosen))
    except debian.PackagesError as error:
        sys.exit(str(error))
    if chosen.write:
        write_page()
    print(table(results))
    return 0 if all(each.is_good or each.is_refused for each in results) else 1


def why_no_kvm() -> str:
    """Return why KVM cannot boot Debian's kernels here; empty if it can."""
    if platform.machine() != "x86_64":
        return "this machine is not x86-64"
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return f"{_KVM} cannot be opened"
    if not any(module.exists() for module in _KVM_MODULES):
        return "neither kvm_intel nor kvm_amd is loaded (kvm_pvm boots only kernels built for it)"
    return ""


def write_page() -> None:
    """Put the last result of each kernel and layout into the page."""
    lines = PUBLISHED.read_bytes() + (RESULTS.read_bytes() if RESULTS.exists() else b"")
    order = [(*name.split("-"), layout) for name, layout in selected(())]
    results = sorted(
        latest(map(decoded, lines.splitlines())),
        key=lambda each: order.index((each.suite, _ARCHITECTURES[each.machine], each.layout)),
    )
    PUBLISHED.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in results))
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), report(results)), encoding="utf-8")


def selected(only: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return kernels and layouts; raises ValueError for those that are none."""
    known = [(name, layout) for name, layouts in KERNELS.items() for layout in layouts]
    for each in only:
        if not any(f"{name}/{layout}".startswith(each) for name, layout in known):
            names = ", ".join(KERNELS)
            raise ValueError(f"invalid kernel {each!r}: use one of {names}, and /v2 and the like")
    for name, layout in known:
        if not only or any(f"{name}/{layout}".startswith(each) for each in only):
            yield name, layout


def _tried(wanted: Iterable[tuple[str, str]], chosen: argparse.Namespace) -> Iterator[Result]:
    mirror = chosen.mirror or debian.debian_mirror()
    name, kernel = "", None
    for each, layout in wanted:
        if each != name or kernel is None:
            name = each
            kernel = debian.kernel(debian.Archive(mirror, *name.split("-")))
        print(f"{name} ({kernel.package}), {layout} …", file=sys.stderr, flush=True)
        began_s = time.monotonic()
        result = replace(
            _booted(kernel, name, layout, chosen),
            suite=name.partition("-")[0],
            machine=_MACHINES[name.partition("-")[2]],
            layout=layout,
            package=kernel.package,
            date=datetime.now(UTC).date().isoformat(),
            host=machine(),
        )
        with RESULTS.open("ab") as lines:
            lines.write(msgspec.json.encode(result) + b"\n")
        took_min = (time.monotonic() - began_s) / 60
        print(f"  {result.summary()}; {took_min:.0f} min", file=sys.stderr, flush=True)
        yield result


def _booted(kernel: debian.Kernel, name: str, layout: str, chosen: argparse.Namespace) -> Result:
    log_path = debian.BUILD / f"{name}-{layout}.log"
    guest = subprocess.Popen(
        command(kernel, layout, chosen.limit, chosen.cpus, chosen.accelerator),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # qemu opens each of them more than once: no file
        start_new_session=True,  # qemu is a child of it
    )
    assert guest.stdout
    end = threading.Timer(chosen.hours * 3600, os.killpg, (guest.pid, signal.SIGKILL))
    end.start()
    result = Result(failure=f"no result; see {log_path.name}")
    try:
        with log_path.open("wb", buffering=0) as log:
            for line in guest.stdout:
                log.write(line)
                if line.startswith(RESULT):
                    with suppress(ValueError):  # a line of the kernel's in between
                        result = decoded(line.removeprefix(RESULT))
    finally:
        end.cancel()
        with suppress(ProcessLookupError):
            os.killpg(guest.pid, signal.SIGKILL)
        guest.wait()
    return result


def command(
    kernel: debian.Kernel, layout: str, limit_s: float, cpus: int, accelerator: str
) -> list[str]:
    """Return the command that boots a kernel and runs ``guest`` in it."""
    virtme = Path(sys.executable).parent / "virtme-run"
    options = [
        *(str(virtme), "--kimg", str(kernel.image), "--mods", "auto", "--force-9p"),
        *("--memory", f"{_MEMORY_MIB}M", "--cpus", str(cpus), "--show-boot-console"),
        *("--kopt", "mitigations=off", "--kopt", "nokaslr", "--kopt", "loglevel=5"),
        # 5.10 zeroes two buffers of 512 KiB for each read over 9p: half a million instructions.
        *("--kopt", "init_on_alloc=0"),
        *(f"--overlay-rwdir=/{folder}" for folder in ("etc", "usr", "var")),
    ]
    run = [sys.executable, "-m", "tests.kernels.guest", layout, str(limit_s)]
    script = f"cd {shlex.quote(str(debian.ROOT))}; exec {shlex.join(run)}"
    if kernel.system is not None:
        accelerator = "tcg"
        options += [
            *("--arch", "arm64", "--root", str(kernel.system)),
            *("--busybox", str(kernel.system / "usr/bin/busybox")),
        ]
        run[0] = "python3"
        script = f"RANDOMX_LIBRARY={debian.RANDOMX_IN_GUEST} exec {shlex.join(run)}"
    options += ["--script-sh", script]
    return options if accelerator == "kvm" else [*options, "--disable-kvm", "--qemu-opts", *_CLOCK]


_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_ARCHITECTURES = {machine: architecture for architecture, machine in _MACHINES.items()}


if __name__ == "__main__":
    sys.exit(main())
