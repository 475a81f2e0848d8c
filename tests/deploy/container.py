"""The DaemonSet's container, run by runc as a kubelet's runtime would run it.

Namespaces, capabilities, seccomp, masked paths, mounts and arguments are those that the rendered
chart asks for. The root is empty, or that of the image that `make image` built. One thing is not as
in a cluster: the pod's address is the loopback one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from minerwatch.api.client import answer
from minerwatch.api.snapshot import decode
from minerwatch.api.types import ContainerStatus
from minerwatch.errors import SnapshotError
from tests.conftest import container_id, pod_uid, remove_parent_cgroups
from tests.deploy.chart import Release
from tests.waiting import until

CGROUP = f"/kubepods/besteffort/pod{pod_uid('5d0c8f36')}/{container_id('a9')}"
PROFILE = Path("/usr/share/containers/seccomp.json")

_BUILT_IMAGE = "MINERWATCH_IMAGE_ROOT"

_MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi"),
    *("/sys/firmware", "/sys/devices/virtual/powercap"),
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

PERMITTED_BY_CAPABILITY = {"CAP_BPF": "bpf", "CAP_PERFMON": "perf_event_open"}
"""What containerd 1.6.9, Docker 23 and later CRI-O added to their default profiles."""


@dataclass(frozen=True)
class Root:
    """Where the agent is installed, and what has to be mounted to run it."""

    folder: Path
    program: str
    mounts: tuple[Path, ...]
    path: str


def built_root() -> Root | None:
    """The root of the image, if somebody has built it."""
    folder = os.environ.get(_BUILT_IMAGE)
    if not folder:
        return None
    return Root(Path(folder), "/opt/minerwatch/bin/minerwatch", (), "/opt/minerwatch/bin:/usr/bin")


def wheel_root(folder: Path) -> Root:
    """An empty root, with minerwatch from its wheel; Python and libraries are this machine's."""
    checkout = Path(__file__).parents[2]
    _run(
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
        *("--outdir", str(folder / "dist"), str(checkout)),
    )
    (wheel,) = (folder / "dist").glob("*.whl")
    installed = folder / "installed"
    _run(sys.executable, "-m", "venv", "--without-pip", str(installed))
    _run(
        *(sys.executable, "-m", "pip", "--python", str(installed), "install", "--quiet"),
        *("--disable-pip-version-check", "--no-deps", "--no-index", str(wheel)),
    )
    # Searched after the wheel; a .pth file in it, such as that of the checkout, is not heeded.
    (site,) = (installed / "lib").glob("python3*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "root").mkdir()
    system = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/passwd", "/etc/group")
    mounts = (
        *(Path(path) for path in system if Path(path).exists()),
        *{Path(sys.base_prefix), Path(sysconfig.get_path("purelib")), installed},
    )
    needed = tuple(path for path in mounts if not path.is_relative_to("/usr/"))
    return Root(
        folder / "root", str(installed / "bin/minerwatch"), needed, f"{installed}/bin:/usr/bin"
    )


class AgentContainer:
    """The agent in its container; ``run`` is the folder that the pod has at /run/minerwatch."""

    def __init__(
        self,
        folder: Path,
        root: Root,
        release: Release,
        *,
        without: Collection[str] = (),
        permitted: Collection[str] = PERMITTED_BY_CAPABILITY,
        profile: Path | None = None,
    ) -> None:
        """``without``: capabilities that the chart grants, and this container does not have.

        ``permitted``: capabilities whose system call the seccomp profile permits.
        ``profile``: another seccomp profile than the runtime's.
        """
        self.run = folder / "run"
        self.program = root.program
        self.name = f"minerwatch-{os.getpid()}-{folder.name}"
        self._log = folder / "log"
        bundle = folder / "bundle"
        for made in (self.run, bundle):
            made.mkdir(parents=True)
        spec = _specification(folder, root, release, set(without), permitted)
        if profile is not None:
            spec["linux"]["seccomp"] = json.loads(profile.read_text())
        (bundle / "config.json").write_text(json.dumps(spec))
        with self._log.open("wb") as log:
            self._runtime = subprocess.Popen(
                ["runc", "run", "--bundle", str(bundle), self.name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def lines(self) -> list[dict[str, Any]]:
        lines = []
        for line in self.said().splitlines():
            with suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
        return lines

    def until(self, holds: Callable[[], Any]) -> Any:
        def answer() -> Any:
            if (found := holds()) or self._runtime.poll() is None:
                return found
            if "runc" in self.said():
                pytest.skip(
                    f"runc cannot run here (run it as root of a host): {self.said()[-300:]}"
                )
            raise AssertionError(self.said())

        return until(answer, lambda: self.said() + "\n" + self.metrics(), every_s=0.2)

    def line(self, event: str, **fields: object) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            return [
                line
                for line in self.lines()
                if line.get("event") == event
                and all(line.get(name) == value for name, value in fields.items())
            ]

        line: dict[str, Any] = self.until(found)[0]
        return line

    def metrics(self) -> str:
        try:
            return answer(self.run / "agent.sock", "/metrics").decode()
        except SnapshotError as error:
            return str(error)

    def metric(self, series: str) -> float:
        found = re.search(rf"^{re.escape(series)} (\S+)$", self.metrics(), re.MULTILINE)
        return float(found[1]) if found else float("nan")

    def failures(self, probe: str) -> list[str]:
        """The series of its failures that are not 0."""
        series = f'minerwatch_probe_failures_total{{probe="{probe}",'
        lines = self.metrics().splitlines()
        return [line for line in lines if line.startswith(series) and not line.endswith(" 0.0")]

    def statuses(self) -> tuple[ContainerStatus, ...]:
        return tuple(decode(answer(self.run / "agent.sock", "/snapshot")))

    def peak_mib(self) -> float:
        """The most memory that its cgroup has held, caches included."""
        places = (
            f"memory{CGROUP}/memory.max_usage_in_bytes",
            f"unified{CGROUP}/memory.peak",
            f".{CGROUP}/memory.peak",
        )
        files = (Path("/sys/fs/cgroup") / place for place in places)
        return max(int(file.read_text()) / 2**20 for file in files if file.is_file())

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As `kubectl exec` does."""
        return subprocess.run(
            ["runc", "exec", self.name, *command], capture_output=True, text=True, check=False
        )

    def close(self) -> None:
        subprocess.run(["runc", "delete", "--force", self.name], check=False, capture_output=True)
        self._runtime.wait()
        remove_parent_cgroups(CGROUP)


def _specification(
    folder: Path, root: Root, release: Release, without: set[str], permitted: Collection[str]
) -> dict[str, Any]:
    agent, pod = release.agent, release.pod["spec"]
    context = agent["securityContext"]
    granted = [f"CAP_{name}" for name in context["capabilities"]["add"] if name not in without]
    environment = {
        each["name"]: each.get("value", "127.0.0.1" if each["name"] == "POD_IP" else "node-1")
        for each in agent["env"]
    }
    arguments = [
        re.sub(r"\$\((\w+)\)", lambda match: environment[match[1]], each) for each in agent["args"]
    ]
    namespaces = ["mount", "uts", "ipc", "cgroup"]
    if not pod.get("hostPID"):
        namespaces.append("pid")
    if not pod.get("hostNetwork"):
        namespaces.append("network")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": context["runAsUser"], "gid": context["runAsGroup"]},
            "args": [root.program, *arguments],
            "env": [
                *(f"{name}={value}" for name, value in environment.items()),
                *(f"PATH={root.path}", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"),
            ],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), granted),
            "noNewPrivileges": not context["allowPrivilegeEscalation"],
        },
        "root": {"path": str(root.folder), "readonly": context["readOnlyRootFilesystem"]},
        "hostname": "agent",
        "mounts": [*_usual_mounts(), *_mounts(folder, root, release)],
        "linux": {
            "cgroupsPath": CGROUP,
            "namespaces": [{"type": kind} for kind in namespaces],
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "seccomp": seccomp_profile(granted, {*granted} & {*permitted}),
        },
    }


def _usual_mounts() -> list[dict[str, Any]]:
    """Those that every container has."""
    safe = ["nosuid", "noexec", "nodev"]
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": terminals},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": safe},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*safe, "ro"]},
    ]


def _mounts(folder: Path, root: Root, release: Release) -> list[dict[str, Any]]:
    """Those of the pod; ConfigMaps are folders with files, as the kubelet makes them."""
    volumes = {volume["name"]: volume for volume in release.pod["spec"]["volumes"]}
    found = [_bind(path, path, read_only=True) for path in root.mounts]
    for mount in release.agent["volumeMounts"]:
        volume, to = volumes[mount["name"]], Path(mount["mountPath"])
        read_only = mount.get("readOnly", False)
        if "hostPath" in volume:
            found.append(_bind(Path(volume["hostPath"]["path"]), to, read_only=read_only))
        elif "configMap" in volume:
            made = folder / mount["name"]
            made.mkdir()
            data = release.named("ConfigMap", volume["configMap"]["name"])["data"]
            wanted = volume["configMap"].get("items") or [{"key": k, "path": k} for k in data]
            for item in wanted:
                (made / item["path"]).parent.mkdir(exist_ok=True)
                (made / item["path"]).write_text(data[item["key"]])
            found.append(_bind(made, to, read_only=read_only))
        else:
            found.append(_bind(folder / "run", to, read_only=read_only))
    return found


def _bind(source: Path, to: Path, *, read_only: bool) -> dict[str, Any]:
    options = ["rbind", "rprivate", "ro" if read_only else "rw"]
    return {"destination": str(to), "type": "bind", "source": str(source), "options": options}


def seccomp_profile(granted: Collection[str], permitted: Collection[str]) -> dict[str, Any]:
    """RuntimeDefault: the profile of containers/common, as it resolves for these capabilities.

    ``permitted``: those that permit their system call, as newer profiles let them. Skips the test
    where the profile is not there.
    """
    if not PROFILE.is_file():
        pytest.skip(f"{PROFILE} is missing: apt install golang-github-containers-common")
    profile = json.loads(PROFILE.read_text())
    allowed = {call for name, call in PERMITTED_BY_CAPABILITY.items() if name in permitted}
    rules = []
    for rule in profile["syscalls"]:
        if not _applies(rule, granted):
            continue
        names = [name for name in rule["names"] if name not in allowed]
        kept = {key: rule[key] for key in ("action", "args", "errnoRet") if rule.get(key)}
        if names:
            rules.append({"names": names, **kept})
    if allowed:
        rules.append({"names": sorted(allowed), "action": "SCMP_ACT_ALLOW"})
    return {
        "defaultAction": profile["defaultAction"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
        "syscalls": rules,
    }


def _applies(rule: dict[str, Any], granted: Collection[str]) -> bool:
    included, excluded = rule.get("includes") or {}, rule.get("excludes") or {}
    is_here = not included.get("arches") or "amd64" in included["arches"]
    return (
        is_here
        and set(included.get("caps", ())) <= set(granted)
        and not set(excluded.get("caps", ())) & set(granted)
        and "amd64" not in excluded.get("arches", ())
    )


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def needs_runc() -> None:
    """Skips the test where containers cannot be run."""
    if os.geteuid() != 0:
        pytest.skip("runs containers: run it as root")
    if shutil.which("runc") is None:
        pytest.skip("runc is missing: apt install runc")
