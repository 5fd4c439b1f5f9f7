"""The profiles' files: folders of TOML → profiles by name.

Owns the reading; what a profile may say is ``profile.py``'s. Called by the wiring, before anything starts.
"""

from collections.abc import Sequence
from pathlib import Path

from gateway.errors import ConfigError
from gateway.profile import Profile, parse_profile

__all__ = ["read_profiles"]


def read_profiles(folders: Sequence[Path]) -> tuple[dict[str, Profile], list[str]]:
    """Read every ``*.toml`` of the folders; a profile takes the place of one of that name in an earlier folder.

    Returns the profiles that can be used, and the mistakes of the others: the file, the key and the reason.
    """
    profiles: dict[str, Profile] = {}
    problems: list[str] = []
    for folder in folders:
        try:
            paths = sorted(path for path in folder.iterdir() if path.suffix == ".toml")
        except FileNotFoundError:
            problems.append(f"{folder}: no such folder")
            continue
        except OSError as exc:
            problems.append(f"{folder}: {exc.strerror or exc}")
            continue
        for path in paths:
            try:
                profile = parse_profile(path.read_text("utf-8-sig"), str(path))
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
    return profiles, problems
