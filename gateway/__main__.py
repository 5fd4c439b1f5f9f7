"""Where the process begins, as the command ``gateway`` and as ``python -m gateway``.

Owns what cannot wait for the imports; the command line does all else.
"""

import signal
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    if "serve" in sys.argv[1:]:
        # They ask for a reload and a backup, which it cannot do before it runs; to be killed nobody asked.
        for number in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
    from gateway import cli

    cli.main()


if __name__ == "__main__":
    main()
