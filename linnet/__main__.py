"""`python -m linnet`, and where the commands `linnet` and `generate` begin."""

import os
import sys

from linnet.engine.cli import interrupts


def main(*command: str) -> None:
    """Run `linnet COMMAND ARGUMENTS` and end the process; Ctrl-C is quiet from here on."""
    interrupts.arm()
    import warnings

    from linnet.engine.cli.main import main
    from linnet.engine.cli.terminal import show_warning

    warnings.showwarning = show_warning
    status = main([*command, *sys.argv[1:]])
    if status == interrupts.INTERRUPTED:  # with nothing left to do that Ctrl-C could disturb
        os._exit(status)
    sys.exit(status)


def generate() -> None:
    """The `generate` command: `linnet generate`."""
    main("generate")


if __name__ == "__main__":
    main()
