"""``python -m generate.pypi_readme TAG``: make the links of README.md absolute, in the file itself.

PyPI shows that page, and has none of the files that it links to.
"""

from __future__ import annotations

import sys
from pathlib import Path

from generate.names import ROOT
from generate.site import page

README = ROOT / "README.md"


def readme(tag: str) -> str:
    """Return the page with links to the repository at ``tag``."""
    return page(README.read_text("utf-8"), README, {README: Path(README.name)}, tag)


if __name__ == "__main__":
    README.write_text(readme(sys.argv[1]), encoding="utf-8")
