"""Debian's kernels, and a small arm64 system, unpacked below build/kernels."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "kernels"
RANDOMX_IN_GUEST = "/usr/lib/librandomx.so"

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_KERNEL_PACKAGE = re.compile(r"linux-(image|binary|modules)-\d\S*")
_NEEDED = (
    *("*/vmlinuz*", "*/modules.order", "*/modules.builtin*"),
    *("*/fs/9p/*", "*/fs/fscache/*", "*/fs/netfs/*", "*/fs/overlayfs/*", "*/net/9p/*"),
    *("*/drivers/virtio/*", "*/drivers/char/virtio_console.*", "*_diag.ko*"),
)
"""Files of a kernel's packages: to boot from a folder of the host, and for the agent's sockets."""
_SYSTEM = (
    *("base-files", "bash", "busybox-static", "coreutils", "grep", "hostname", "kmod"),
    *("libbpf1", "libstdc++6", "mount", "python3", "sed", "util-linux"),
)
_PYTHON = "3.13"
"""Of the small system: trixie's."""
_PACKAGES = f"usr/local/lib/python{_PYTHON}/dist-packages"
_RANDOMX = (
    "RandomX==1.1.10.post3"
    " --hash=sha256:cf135c3e63ca15d1a1f32c98e2e1de4dffa4385a66cf82dac591fadc6fba3a0a\n"
)
_COMPILER = "aarch64-linux-gnu-gcc"


class PackagesError(Exception):
    """Packages that cannot be had; ``str()`` is one line."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel to boot, and the system around it; None: the host's."""

    image: Path
    package: str  # name and version
    system: Path | None = None


class Archive:
    """One suite of Debian for one architecture, apart from what is installed here."""

    def __init__(self, mirror: str, suite: str, architecture: str) -> None:
        """Read the suite's lists. Raises PackagesError."""
        self.folder = BUILD / f"{suite}-{architecture}"
        self.architecture = architecture
        self._names: list[str] = []
        apt = self.folder / "apt"
        for each in ("lists/partial", "cache/archives/partial"):
            (apt / each).mkdir(parents=True, exist_ok=True)
        (apt / "status").touch()
        (apt / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror} {suite} main\n")
        settings = {
            "Dir::Etc::sourcelist": apt / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": apt / "lists",
            "Dir::State::status": apt / "status",
            "Dir::Cache": apt / "cache",
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Sandbox::User": "root",
        }
        lines = "".join(f'{name} "{value}";\n' for name, value in settings.items())
        (apt / "apt.conf").write_text(lines)
        self._environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf")}
        self._apt("apt-get", "--quiet", "update")

    def kernel_addresses(self) -> str:
        """Return addresses and hashes of the packages of the suite's newest kernel."""
        kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
        listed = self._apt(
            *("apt-cache", "depends", "--recurse", *(f"--no-{kind}" for kind in kinds)),
            f"linux-image-{self.architecture}",
        )
        self._names = sorted(set(filter(_KERNEL_PACKAGE.fullmatch, listed.split())))
        return self._apt("apt-get", "--print-uris", "download", *self._names)

    def fetch_kernel(self) -> list[Path]:
        """Download the packages that ``kernel_addresses`` named."""
        return self._fetch("kernel", "download", *self._names)

    def fetch_system(self) -> list[Path]:
        """Download the packages of a small system, with all that they need."""
        folder = f"Dir::Cache::archives={self.folder / 'system'}"
        options = ("--yes", "--download-only", "--no-install-recommends", "--option", folder)
        return self._fetch("system", *options, "install", *_SYSTEM)

    def _fetch(self, name: str, *arguments: str) -> list[Path]:
        folder = self.folder / name
        (folder / "partial").mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.deb"):
            old.unlink()
        self._apt("apt-get", "--quiet", *arguments, folder=folder)
        return sorted(folder.glob("*.deb"))

    def _apt(self, *command: str, folder: Path | None = None) -> str:
        return _output(*command, folder=folder, environment=self._environment)


def kernel(archive: Archive) -> Kernel:
    """Return the newest kernel, with a small system where it is another processor's.

    It is fetched and unpacked if there is a newer one since the last time.
    """
    addresses, known = archive.kernel_addresses(), archive.folder / "unpacked"
    root = archive.folder / "root"
    is_foreign = archive.architecture != "amd64"
    if not known.exists() or known.read_text() != addresses:
        known.unlink(missing_ok=True)
        _emptied(root)
        if is_foreign:
            _unpack_system(archive, root)
        for package in archive.fetch_kernel():
            _unpack(package, root, _NEEDED)
        for module in root.rglob("*.ko.xz"):
            subprocess.run(["xz", "--decompress", str(module)], check=True)
        known.write_text(addresses)
    if is_foreign:
        _copy_code(root / _PACKAGES)
    image = next(iter(sorted(root.rglob("vmlinuz*"))))
    return Kernel(image, kernel_package(addresses), root if is_foreign else None)


def kernel_package(addresses: str) -> str:
    """Return name and version of the kernel, by what apt printed of its packages."""
    for line in addresses.splitlines():
        if "linux-image-" in line:
            name, version, _ = line.split()[1].split("_")
            return f"{name.removeprefix('linux-image-')} {version}"
    raise PackagesError("no package linux-image-… is there")


def debian_mirror() -> str:
    """Return the mirror that apt uses here. Raises PackagesError."""
    form = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)"
    targets = _output("apt-get", "indextargets", "--format", form, "Created-By: Packages")
    mirror = next(debian_mirrors(targets), None)
    if mirror is None:
        raise PackagesError("apt knows no mirror of Debian: name one by --mirror URL")
    return mirror


def debian_mirrors(targets: str) -> Iterator[str]:
    """Return the mirrors of Debian's own suites in what ``apt-get indextargets`` printed."""
    for line in targets.splitlines():
        origin, label, component, mirror = line.split("|")
        if (origin, label, component) == ("Debian", "Debian", "main"):
            yield mirror


def _unpack_system(archive: Archive, root: Path) -> None:
    """Unpack a system that runs the agent: its Python, its packages, and RandomX."""
    for each in ("bin", "sbin", "lib"):
        (root / "usr" / each).mkdir(parents=True)
        (root / each).symlink_to(f"usr/{each}")
    for package in archive.fetch_system():
        _unpack(package, root)
    for each in ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var/log"):
        (root / each).mkdir(parents=True, exist_ok=True)
    (root / "usr/bin/sh").symlink_to("bash")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc/group").write_text("root:x:0:\ntty:x:5:\n")
    (root / "etc/fstab").touch()
    _output(
        *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps"),
        *("--python-platform", "aarch64-manylinux_2_28", "--python-version", _PYTHON),
        *("--only-binary=:all:", "--require-hashes", "--target", str(root / _PACKAGES)),
        *("--requirement", str(ROOT / "deploy/requirements.lock")),
    )
    _compile_randomx(archive.folder / "randomx", root / RANDOMX_IN_GUEST[1:])


def _copy_code(packages: Path) -> None:
    """Put minerwatch into Python's folder, as in the wheel, and what a guest runs."""
    for source, name in (
        ("minerwatch", "minerwatch"),
        ("rules", "minerwatch/built_in_rules"),
        ("tests/kernels", "tests/kernels"),
        ("tests/targets", "tests/targets"),
    ):
        shutil.rmtree(packages / name, ignore_errors=True)
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / source, packages / name, ignore=unwanted)


def _compile_randomx(folder: Path, library: Path) -> None:
    if shutil.which(_COMPILER) is None:
        raise PackagesError(f"{_COMPILER} is missing: apt install g++-aarch64-linux-gnu")
    _emptied(folder)
    (folder / "requirements.txt").write_text(_RANDOMX)
    _output(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:"),
        *("--require-hashes", "--requirement", "requirements.txt"),
        folder=folder,
    )
    (archive,) = folder.glob("*.tar.gz")
    _output("tar", "--extract", "--strip-components=2", "--file", archive.name, folder=folder)
    sources = [
        str(each)
        for pattern in ("*.c", "*.cpp", "*.S", "blake2/*.c")
        for each in sorted((folder / "src").glob(pattern))
        if "jit_compiler_x86" not in each.name
    ]
    options = ("-O2", "-fPIC", "-shared", "-march=armv8-a+crypto")
    _output(_COMPILER, *options, "-o", str(library), *sources, "-lstdc++", "-lm")


def _unpack(package: Path, root: Path, wanted: Iterable[str] = ()) -> None:
    """Unpack what of a package matches ``wanted``, or all of it."""
    patterns = ["--wildcards", "--no-anchored", *wanted] if wanted else []
    content = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
    tar = ["tar", "--extract", "--keep-directory-symlink", "--file=-", f"--directory={root}"]
    done = subprocess.run(
        [*tar, *patterns], stdin=content.stdout, capture_output=True, text=True, check=False
    )
    assert content.stdout
    content.stdout.close()
    if content.wait() != 0 or (done.returncode != 0 and not wanted):  # not all patterns match
        raise PackagesError(f"{package.name} cannot be unpacked: {done.stderr.strip()[-200:]}")


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _output(
    *command: str, folder: Path | None = None, environment: dict[str, str] | None = None
) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise PackagesError(f"{' '.join(command[:4])}: {last}")
    return done.stdout
