"""Where the process begins, as the command ``gateway`` and as ``python -m gateway``.

Owns what cannot wait for the imports; the command line does all else.
"""

import resource
import signal
import sys

_LEAST_BYTES = 256 * 1024 * 1024
"""Of address space. With less it starts, and then has no room to work; with much less libraries abort."""


def main() -> None:
    """Run the command line."""
    try:
        _run()
    except MemoryError:
        sys.exit("This process has no memory left: raise its limits (ulimit -v, ulimit -d).")
    except RuntimeError as exc:
        if "new thread" not in str(exc):  # Python has no class for it
            raise
        sys.exit("This process cannot start a thread: raise its limits (ulimit -v, ulimit -d, ulimit -u, pids).")


def _run() -> None:
    if "serve" in sys.argv[1:]:
        for limit, name in ((resource.RLIMIT_AS, "ulimit -v, RLIMIT_AS"), (resource.RLIMIT_DATA, "ulimit -d")):
            soft, _ = resource.getrlimit(limit)
            if soft != resource.RLIM_INFINITY and soft < _LEAST_BYTES:
                sys.exit(
                    f"The memory of this process is limited to {soft // 1024} KiB ({name}): "
                    f"the gateway needs {_LEAST_BYTES // 1024} at least."
                )
        # They ask for a reload and a backup, which it cannot do before it runs; to be killed nobody asked.
        for number in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
    from gateway.cli import commands

    commands.main()


if __name__ == "__main__":
    main()
