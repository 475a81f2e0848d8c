"""The chart's README: how to install it, and its values with the comments beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from generate.manifests import CHART
from generate.names import names

README = CHART / "README.md"
_VALUES = CHART / "values.yaml"
_INLINE = re.compile(r"\s#\s+(.*)$")
_PAGE = """\
<!-- Written by `make generate` from values.yaml -->
# minerwatch

Finds crypto-miners on the nodes of a cluster, and says why it thinks so: a DaemonSet that watches,
scores and exports metrics. It acts on pods only where culling is switched on.

```sh
kubectl create namespace minerwatch
# for hostPID and hostPath:
kubectl label namespace minerwatch pod-security.kubernetes.io/enforce=privileged
helm install minerwatch oci://{charts}/minerwatch --namespace minerwatch
helm test minerwatch --namespace minerwatch   # plants a harmless canary; it must be found
```

In a checkout, the chart is `deploy/helm/minerwatch`.
[deploy/README.md]({repository}/blob/main/deploy/README.md): values for common cases, upgrades of
agents that cull, what is left after `helm uninstall`.
[RELEASING.md]({repository}/blob/main/RELEASING.md#verify-a-release): how to verify chart and image.

## Values

`values.schema.json` refuses a wrong key. All keys of `config`:
[docs/configuration.md]({repository}/blob/main/docs/configuration.md).

| value | default | meaning |
| --- | --- | --- |
{rows}
"""


@dataclass(frozen=True, slots=True)
class _Value:
    path: str
    default: str | None  # None for a section
    comment: str


def readme() -> str:
    """Return the page."""
    text = _VALUES.read_text(encoding="utf-8")
    root = yaml.compose(text)
    assert root is not None
    rows = [
        f"| `{value.path}` | {_code(value.default)} | {_cell(value.comment)} |"
        for value in _values(root, text.splitlines(), "")
        if value.default is not None or value.comment
    ]
    return _PAGE.format(**names(), rows="\n".join(rows))


def _values(node: yaml.Node, lines: list[str], above: str) -> Iterator[_Value]:
    for key, value in node.value:
        path = f"{above}{key.value}"
        comment = _comment(lines, key.start_mark.line)
        is_section = isinstance(value, yaml.MappingNode) and value.value and not value.flow_style
        if is_section:
            yield _Value(path, None, comment)
            yield from _values(value, lines, f"{path}.")
        else:
            loaded = yaml.safe_load(yaml.serialize(value))
            yield _Value(path, yaml.safe_dump(loaded, default_flow_style=True, width=1000), comment)


def _comment(lines: list[str], line: int) -> str:
    """Return the comment above a key and beside it, as one line."""
    first = line
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    above = [text.strip().removeprefix("#").strip() for text in lines[first:line]]
    beside = _INLINE.search(lines[line])
    return "<br>".join(part for part in (" ".join(above), beside[1] if beside else "") if part)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(default: str | None) -> str:
    """Return a default as Markdown."""
    text = (default or "").removesuffix("\n").removesuffix("\n...").strip()
    return f"`{_cell(text.replace(chr(39) * 2, chr(34) * 2))}`" if text else ""
