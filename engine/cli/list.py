"""`linnet list`: models that were downloaded, a line each."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from datetime import datetime

from linnet.engine.gguf import hub_cache, url
from linnet.engine.gguf.downloaded import Downloaded


def configure(parser: argparse.ArgumentParser) -> None:
    help = "json: one object a model"
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help=help)


def run(arguments: argparse.Namespace) -> int:
    """Names by which they can be given, on stdout."""
    found = [*downloaded()]
    if arguments.output == "json":
        keys = "name", "type", "n_bytes", "modified"
        print(json.dumps([{key: getattr(each, key) for key in keys} for each in found]))
        return 0
    width = max([len("name"), *(len(each.name) for each in found)])
    print(f"{'name':{width}}  {'type':8}  {'size':>9}  modified")
    for each in found:
        date = datetime.fromtimestamp(each.modified).strftime("%Y-%m-%d %H:%M")
        print(f"{each.name:{width}}  {each.type:8}  {size(each.n_bytes):>9}  {date}")
    return 0


def downloaded() -> Iterator[Downloaded]:
    """All of them: from the hub, and from elsewhere."""
    yield from hub_cache.models()
    yield from url.models()


def size(n_bytes: int) -> str:
    """For people."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"
