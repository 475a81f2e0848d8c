"""Asks whether a lock file has packages with known vulnerabilities.

``python3 -m deploy.image.audit deploy/requirements.lock``; ``--osv-url URL`` asks another service
of OSV's kind. It ends with 0 where none is known, with 1 where some are, and with 2 where the
service did not answer for all of them: pip-audit alone may call that clean.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_SERVICE = "https://api.osv.dev/v1/query"
_TIMEOUT_S = 15


def main() -> None:
    """Prints a line for each vulnerability, or one line on what went wrong."""
    parser = argparse.ArgumentParser(description="Look for known vulnerabilities in a lock file.")
    parser.add_argument("lock", type=Path)
    parser.add_argument("--osv-url", default=_SERVICE, help="default: %(default)s")
    arguments = parser.parse_args()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip_audit", "--requirement", str(arguments.lock)),
            *("--require-hashes", "--disable-pip", "--vulnerability-service", "osv"),
            *("--osv-url", arguments.osv_url, "--timeout", str(_TIMEOUT_S)),
            *("--progress-spinner", "off", "--format", "json"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    code, lines = verdict(arguments.osv_url, done.stdout, done.stderr)
    print("\n".join(lines), file=sys.stderr if code == 2 else sys.stdout)
    sys.exit(code)


def verdict(service: str, told: str, said: str) -> tuple[int, list[str]]:
    """The exit code and what to print, from what pip-audit wrote on its two outputs."""
    try:
        packages: list[dict[str, Any]] = json.loads(told)["dependencies"]
    except (ValueError, KeyError):
        last = said.strip().rpartition("\n")[2].rpartition("Caused by ")[2]
        return 2, [f"cannot audit: no answer from {service}, ask it where it is reached: {last}"]
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    if skipped or not packages:
        return 2, [
            f"cannot audit: {service} knows nothing of {', '.join(skipped) or 'any package'}"
        ]
    lines = _vulnerabilities(packages)
    return (1 if lines else 0), [*lines, f"known: {len(lines)}, in {len(packages)} packages"]


def _vulnerabilities(packages: list[dict[str, Any]]) -> list[str]:
    return [
        f"{each['name']} {each['version']}: {known['id']}"
        f" {' '.join(known['aliases'])}, fixed in {', '.join(known['fix_versions']) or 'none'}"
        for each in packages
        for known in each["vulns"]
    ]


if __name__ == "__main__":
    main()
