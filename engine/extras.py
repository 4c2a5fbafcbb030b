"""What a plain install leaves out, and how to have it."""

from __future__ import annotations

from typing import Final

DISTRIBUTION: Final = "linnet-llm"  # its name on the index, where `linnet` is another author's


def installing(extra: str) -> str:
    """The command that adds an extra of pyproject.toml; quoted as every shell takes it."""
    return f'pip install "{DISTRIBUTION}[{extra}]"'
