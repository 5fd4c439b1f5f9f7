"""``python -m tests.severalcommands``: run several commands, each in a process of its own, which share the imports.

Reads them from standard input, as ``commandline.run_each`` writes them, and writes what each came to. A command's start
takes ten times as long as what most of them do; how it starts is for the tests to see that run one alone.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import gateway.cli.asking
import gateway.cli.client  # noqa: F401 - what most commands import when they run
from gateway.__main__ import main


def _become(words: list[str], environ: dict[str, str], files: list[int]) -> None:
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.environ.update(environ)
    sys.argv[1:] = words
    main()


def _ran(words: list[str], environ: dict[str, str]) -> dict[str, Any]:
    with Path(os.devnull).open() as nothing, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            _become(words, environ, [nothing.fileno(), out.fileno(), err.fileno()])
            sys.exit()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        told = []
        for file in (out, err):
            file.seek(0)
            told.append(file.read().decode())
    return {"returncode": status, "stdout": told[0], "stderr": told[1]}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    json.dump([_ran(*one) for one in asked], sys.stdout)
