from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.detection.facts import (
    container_facts,
    is_kernel_thread_name,
    measured,
    static_facts,
)
from minerwatch.detection.fields import KNOWN_FIELDS
from minerwatch.model import Container, ContainerKind, Process, ProcessId

PROCESS = Process(
    id=ProcessId(7, 100), parent_pid=1, comm="python3", command_line="python3 train.py",
    image="/usr/bin/python3", current_directory="/home/x", uid=1000, user="x",
    exe_deleted=False, exe_in_memory=False, command_line_hidden=False, kernel_thread=False,
    program=123,
)  # fmt: skip
CONTAINER = Container("/docker/a", 5, ContainerKind.ENGINE, "a", "docker")


def test_what_is_known_of_a_process_and_its_parent() -> None:
    facts = static_facts(PROCESS, replace(PROCESS, image="/bin/sh", command_line="sh -c x"))
    assert facts == {
        "ProcessId": 7,
        "User": "x",
        "Comm": "python3",
        "CommandLine": "python3 train.py",
        "Arguments": ("python3", "train.py"),
        "Image": "/usr/bin/python3",
        "CurrentDirectory": "/home/x",
        "ParentImage": "/bin/sh",
        "ParentCommandLine": "sh -c x",
        "ExeDeleted": False,
        "ExeInMemory": False,
        "CommandLineHidden": False,
        "KernelThreadName": False,
        "CommDiffers": False,
    }


@pytest.mark.parametrize(
    ("comm", "image", "command_line", "differs"),
    [
        ("python3", "/usr/bin/python3.11", "python3 train.py", False),
        ("train.py", "/usr/bin/python3.11", "/usr/bin/python3 ./train.py --fast", False),
        ("bash", "/usr/bin/bash", "-bash", False),
        ("sshd", "/usr/sbin/sshd", "sshd: user [priv]", False),
        ("ls", "/bin/busybox", "ls /", False),
        ("a-name-cut-at-1", "/opt/a-name-cut-at-15-bytes", "x", False),
        ("sshd", "/tmp/.x/a", "./a -c b", True),
        ("kworker", "/home/u/a", "", True),
    ],
)
def test_a_name_of_its_own_differs(comm: str, image: str, command_line: str, differs: bool) -> None:
    process = replace(PROCESS, comm=comm, image=image, command_line=command_line)
    assert static_facts(process, None)["CommDiffers"] is differs


def test_what_could_not_be_read_is_absent() -> None:
    unreadable = replace(PROCESS, image="", command_line="", current_directory="")
    facts = static_facts(unreadable, replace(unreadable, comm="sh"))
    assert not facts.keys() & {"Image", "ExeDeleted", "ExeInMemory", "CommandLine"}
    assert not facts.keys() & {"CurrentDirectory", "ParentImage", "ParentCommandLine"}


def test_what_was_not_measured_of_a_container_is_absent() -> None:
    facts = container_facts(CONTAINER, cpu_cores=None, cpu_s=7200)
    assert facts == {"ContainerName": "a", "ContainerCpuHours": 2}
    facts = container_facts(
        CONTAINER, cpu_cores=0.0, cpu_s=0, cpu_limit_cores=2, hidden_cpu_share=0.0
    )
    assert facts["ContainerCpuCores"] == 0.0
    assert facts["HiddenCpuShare"] == 0.0


@pytest.mark.parametrize(
    "name",
    ["kworker/0:1", "[kworker/u8:3]", "kswapd0", "ksoftirqd/1", "kthreadd", "rcu_sched",
     "migration/0", "jbd2/sda1-8", "[kdevtmpfs]", "scsi_eh_0", "khugepaged", "[crypto]", "[ext4]",
     "[kthreaddk]", "[xfsaild/dm-0]", "[rcu_gp]", "[loop7]", "[mm_percpu_wq]"],
)  # fmt: skip
def test_names_of_kernel_threads(name: str) -> None:
    assert is_kernel_thread_name(replace(PROCESS, comm=name[:15], command_line=""))
    assert is_kernel_thread_name(replace(PROCESS, command_line=f"{name} -o pool"))
    assert not is_kernel_thread_name(replace(PROCESS, comm=name, kernel_thread=True))


@pytest.mark.parametrize(
    "name",
    ["python3", "kubelet", "kube-proxy", "kafka", "[", "test", "ksh", "knative", "irqbalance",
     "rcutil", "migrate", "jbd2dump", "node", "kworkers-app", "[celeryd:ForkPoolWorker-3]",
     "[trainer]", "[api@host]", "[Kworker]", "crypto", "[celeryd:", "[scheduler/2]", "[md5sum]"],
)  # fmt: skip
def test_names_of_ordinary_programs(name: str) -> None:
    assert not is_kernel_thread_name(replace(PROCESS, comm=name, command_line=name))


@given(st.text(max_size=40), st.text(max_size=200), st.text(max_size=60))
def test_any_text_makes_facts_with_known_fields(comm: str, line: str, image: str) -> None:
    process = replace(PROCESS, comm=comm, command_line=line, image=image)
    facts = static_facts(process, process)
    assert facts.keys() <= KNOWN_FIELDS.keys()
    assert facts.get("CommandLine", "") == line


def test_measured_leaves_out_only_what_is_none() -> None:
    assert measured(A=None, B=0, C=False, D="") == {"B": 0, "C": False, "D": ""}
