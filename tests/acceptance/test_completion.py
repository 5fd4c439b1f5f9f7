"""`gateway completion`: what a real shell completes with it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.test_quick_start import environment
from tests.commandline import run


def completed(words: list[str], folder: Path) -> list[str]:
    """Return what bash offers for the last of these words."""
    line = " ".join(f"'{word}'" for word in words)
    script = (
        "source <(gateway completion bash)\n"
        "complete -p gateway >/dev/null || exit 9\n"
        f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}\n"
        '_gateway_completion gateway; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True, text=True, cwd=folder, env=environment(folder), timeout=50, check=False,
    )  # fmt: skip
    assert (done.returncode, [line for line in done.stderr.splitlines() if "compopt" not in line]) == (0, []), (
        done.stderr
    )
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="the machine has no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gateway", "re"], ["redeliver", "register"]),
        (["gateway", "redeliver", "--st"], ["--state"]),
        (["gateway", "list", "--state", "d"], ["delivered", "dead"]),
        (["gateway", "completion", ""], ["bash", "zsh", "fish"]),
    ],
)
def test_bash_completes(tmp_path: Path, words: list[str], expected: list[str]) -> None:
    """Commands, options and their values."""
    assert sorted(completed(words, tmp_path)) == sorted(expected)


@pytest.mark.parametrize(
    ("shell", "mark"), [("zsh", "#compdef gateway"), ("fish", "complete --no-files --command gateway")]
)
def test_the_other_shells_get_theirs(tmp_path: Path, shell: str, mark: str) -> None:
    """Each its own script; run by the shell itself where the machine has it."""
    done = run("completion", shell, cwd=tmp_path)
    assert (done.returncode, done.stderr, mark in done.stdout) == (0, "", True)
    if shutil.which(shell):
        subprocess.run([shell, "-n", "-c", done.stdout], check=True, timeout=50)
    variable = f"{shell}_complete"
    asked = run(
        cwd=tmp_path, _GATEWAY_COMPLETE=variable, COMP_WORDS="gateway re", COMP_CWORD="re" if shell == "fish" else "1"
    )
    assert {"redeliver", "register"} <= set(asked.stdout.replace(",", " ").split())
