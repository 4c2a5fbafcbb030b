"""What `-v` shows: the lines of the logger "linnet", on stderr."""

from __future__ import annotations


def show() -> None:
    """Write what is logged from now on to stderr, a line each, kernels from the cache included."""
    import logging  # takes a start 4 ms, which few need

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(relativeCreated)6.0f ms %(name)s: %(message)s"))
    logger = logging.getLogger("linnet")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
