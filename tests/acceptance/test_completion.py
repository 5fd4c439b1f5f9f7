"""`gateway completion`: what a real shell completes with it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.test_quick_start import environment
from tests.commandline import run

# What a shell is told to do: take the completion as the manual says, see that it has one, and complete the last word.
BASH = """
source <(gateway completion bash)
complete -p gateway >/dev/null || exit 9
COMP_WORDS=({quoted}); COMP_CWORD={last}
_gateway_completion gateway; printf "%s\\n" "${{COMPREPLY[@]}}"
"""
# Without a line editor what zsh would show is printed by what takes the place of its own two commands.
ZSH = """
autoload -U compinit; compinit -D -u
source <(gateway completion zsh)
[[ $_comps[gateway] == _gateway_completion ]] || exit 9
_describe() {{ print -rl -- "${{(@P)3}}"; }}
compadd() {{ print -rl -- "${{(@P)5}}"; }}
words=({quoted}); CURRENT=$(({last} + 1))
_gateway_completion
"""
FISH = """
gateway completion fish | source
complete gateway | string match -q "*_gateway_completion*"; or exit 9
complete -C {line}
"""
SHELLS = {"bash": (["bash", "--norc"], BASH), "zsh": (["zsh", "-f"], ZSH), "fish": (["fish", "--no-config"], FISH)}
EACH = [
    pytest.param(one, marks=pytest.mark.skipif(shutil.which(one) is None, reason=f"needs {one}: apt install {one}"))
    for one in SHELLS
]


def completed(shell: str, words: list[str], folder: Path) -> list[str]:
    """Return what a shell offers for the last of these words, without what it says about each."""
    command, script = SHELLS[shell]
    quoted = " ".join(f"'{word}'" for word in words)
    text = script.format(quoted=quoted, last=len(words) - 1, line=f"'{' '.join(words)}'")
    done = subprocess.run(
        [*command, "-c", text],
        capture_output=True, text=True, cwd=folder, env=environment(folder), timeout=50, check=False,
    )  # fmt: skip
    assert (done.returncode, [line for line in done.stderr.splitlines() if "compopt" not in line]) == (0, []), (
        done.stderr
    )
    return [re.split(r"[:\t]", line)[0] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", EACH)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gateway", "re"], ["redeliver", "register"]),
        (["gateway", "redeliver", "--st"], ["--state"]),
        (["gateway", "list", "--state", "d"], ["delivered", "dead"]),
        (["gateway", "completion", ""], ["bash", "zsh", "fish"]),
    ],
)
def test_a_shell_completes(tmp_path: Path, shell: str, words: list[str], expected: list[str]) -> None:
    """Commands, options and their values, each in the shell itself."""
    assert sorted(completed(shell, words, tmp_path)) == sorted(expected)


@pytest.mark.parametrize(
    ("shell", "mark"), [("zsh", "#compdef gateway"), ("fish", "complete --no-files --command gateway")]
)
def test_the_other_shells_get_theirs(tmp_path: Path, shell: str, mark: str) -> None:
    """Each its own script, whether the machine has the shell or not."""
    done = run("completion", shell, cwd=tmp_path)
    assert (done.returncode, done.stderr, mark in done.stdout) == (0, "", True)
    variable = f"{shell}_complete"
    asked = run(
        cwd=tmp_path, _GATEWAY_COMPLETE=variable, COMP_WORDS="gateway re", COMP_CWORD="re" if shell == "fish" else "1"
    )
    assert {"redeliver", "register"} <= set(asked.stdout.replace(",", " ").split())
