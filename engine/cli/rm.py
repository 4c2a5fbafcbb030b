"""`linnet rm`: models that were downloaded, removed once that is confirmed."""

from __future__ import annotations

import argparse
import sys

from linnet.engine.cli.list import downloaded, size
from linnet.engine.gguf.downloaded import Downloaded
from linnet.engine.gguf.named import HubModel, parsed


def configure(parser: argparse.ArgumentParser) -> None:
    what = "user/model:QUANT or a URL, as linnet list has it; user/model for all types of it"
    parser.add_argument("names", nargs="+", metavar="NAME", help=what)
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def run(arguments: argparse.Namespace) -> int:
    """What is removed, on stderr; the status is 1 where it is not to be."""
    there = [*downloaded()]
    chosen = {each.name: each for name in arguments.names for each in _named(name, there)}
    total = size(sum(each.n_bytes for each in chosen.values()))
    if not arguments.yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise ValueError(f"remove {', '.join(chosen)} ({total})? -y says yes")
        print(f"remove {', '.join(chosen)} ({total})? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 1
    for model in chosen.values():
        model.remove()
        print(f"removed {model.name} ({size(model.n_bytes)})", file=sys.stderr)
    return 0


def _named(name: str, there: list[Downloaded]) -> list[Downloaded]:
    """Raises ValueError where there is none."""
    asked = parsed(name)
    if isinstance(asked, HubModel) and asked.file is None:
        name = asked.repo if asked.quant is None else f"{asked.repo}:{asked.quant}"
    found = [each for each in there if name.lower() in _names(each)]
    if not found:
        raise ValueError(f"{name!r} was not downloaded; linnet list shows what was")
    return found


def _names(model: Downloaded) -> set[str]:
    """Its own, and for one on the hub that of all types."""
    names = {model.name.lower()}
    return names | ({model.name.lower().rpartition(":")[0]} if "://" not in model.name else set())
