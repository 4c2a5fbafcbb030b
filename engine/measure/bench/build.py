"""Which linnet is measured: its version and, where it runs from a git checkout, the commit."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from linnet import __version__

CHECKOUT = Path(__file__).resolve().parents[3]
PATIENCE = 5  # seconds that git may take


@cache
def build(checkout: Path = CHECKOUT) -> dict[str, Any]:
    """`version`; `build_commit`, with "-dirty" where files differ from it, and `build_number`, how
    many commits that is: "unknown" and 0 where there is no checkout or no git."""
    commit, number = "unknown", "0"
    if (checkout / ".git").exists():
        commit = _git(checkout, "describe", "--always", "--dirty", "--exclude=*") or commit
        number = _git(checkout, "rev-list", "--count", "HEAD") or number
    return {"version": __version__, "build_commit": commit, "build_number": int(number)}


def _git(checkout: Path, *arguments: str) -> str:
    """What git says; "" where it says that it cannot."""
    command = ["git", "-C", str(checkout), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout.strip()
