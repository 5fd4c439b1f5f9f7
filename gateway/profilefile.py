"""The profiles' files: folders of TOML → profiles by name.

Owns the reading; what a profile may say is ``profile.py``'s. Called by the wiring, once, before anything starts.
"""

from collections.abc import Sequence
from pathlib import Path

from gateway.errors import ConfigError
from gateway.profile import Profile, parse_profile

__all__ = ["load_profiles"]


def load_profiles(folders: Sequence[Path]) -> dict[str, Profile]:
    """Read every ``*.toml`` of the folders; a profile takes the place of one of that name in an earlier folder.

    Raises ConfigError that holds the mistakes of all files: the file, the key and the reason.
    """
    profiles: dict[str, Profile] = {}
    problems: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            problems.append(f"{folder}: no such folder")
        for path in sorted(folder.glob("*.toml")):
            try:
                profile = parse_profile(path.read_text("utf-8"), str(path))
            except ConfigError as exc:
                problems.extend(exc.problems)
            except UnicodeDecodeError:
                problems.append(f"{path}: it is not a text file in UTF-8")
            except OSError as exc:
                problems.append(f"{path}: {exc.strerror or exc}")
            else:
                if profile.name != path.stem:
                    problems.append(f"{path}: name: got {profile.name!r}; write the name of the file, {path.stem!r}")
                profiles[profile.name] = profile
    if problems:
        raise ConfigError(problems)
    return profiles
