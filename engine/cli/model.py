"""The model that a command is given: a file, or a name on the Hugging Face hub."""

from __future__ import annotations

import argparse


def add_model(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """-m and -hf; without either, unless one is required, the model linnet ships."""
    group = parser.add_mutually_exclusive_group(required=required)
    without = "" if required else "; without it, the model linnet ships"
    group.add_argument("-m", "--model", metavar="FILE", help=f"a GGUF file{without}")
    group.add_argument(
        "-hf", "-hfr", "--hf-repo", metavar="USER/MODEL[:QUANT]",
        help="a model on the Hugging Face hub, Q4_K_M unless it says; needs linnet[hub]",
    )  # fmt: skip


def model_path(arguments: argparse.Namespace) -> str | None:
    """The file, downloaded if need be; None for the model linnet ships. Raises HubError."""
    if arguments.hf_repo is None:
        return str(arguments.model) if arguments.model is not None else None
    from linnet.engine.gguf.hub import download  # imports what few commands need

    return str(download(arguments.hf_repo))
