"""`linnet pull`: models from the hub or a URL, downloaded once."""

from __future__ import annotations

import argparse

from linnet.engine.cli.model import add_models, model_paths


def configure(parser: argparse.ArgumentParser) -> None:
    add_models(parser)


def run(arguments: argparse.Namespace) -> int:
    """The path of each on stdout, bars on stderr."""
    for path in model_paths(arguments):
        print(path, flush=True)
    return 0
