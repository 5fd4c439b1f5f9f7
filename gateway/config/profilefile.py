"""The profiles' files: folders of TOML → profiles by name.

Owns the reading; what a profile may say is ``profile.py``'s. Called by the wiring, before anything starts.
"""

from collections.abc import Sequence
from pathlib import Path

from gateway.config.profile import Profile
from gateway.config.profiletext import parse_profile
from gateway.core.errors import ConfigError
from gateway.core.textfile import read_text

__all__ = ["read_profiles"]


def read_profiles(folders: Sequence[Path]) -> tuple[dict[str, Profile], list[str]]:
    """Read every ``*.toml`` of the folders, hidden ones aside; a profile takes the place of an earlier folder's.

    The shipped folder is always there: one that cannot be read is the operator's, who named it in GATEWAY_PROFILES.

    Returns the profiles that can be used, and the mistakes of the others: the file, the key and the reason.
    """
    profiles: dict[str, Profile] = {}
    problems: list[str] = []
    for folder in folders:
        try:
            # Editors and macOS leave hidden files that are no profiles: .#mine.toml, ._mine.toml.
            found = (path for path in folder.iterdir() if path.suffix == ".toml" and not path.name.startswith("."))
            paths = sorted(found)
        except OSError as exc:
            why = "there is no such folder" if isinstance(exc, FileNotFoundError) else exc.strerror or str(exc)
            problems.append(f"GATEWAY_PROFILES: got {str(folder)!r}; {why}: name a folder that this user may read")
            continue
        for path in paths:
            try:
                profile = parse_profile(read_text(path), str(path))
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
