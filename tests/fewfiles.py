"""``python -m tests.fewfiles N serve``: the gateway's commands, in a process that may have N files open and no more.

Owns the limit. Called by the tests of what depends on it.
"""

import resource
import sys

from gateway.cli import commands as cli

if __name__ == "__main__":
    files = int(sys.argv.pop(1))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    cli.main()
