"""The changelog's form, and what it says of a version: by Keep a Changelog, with a day for each version that is out."""

import re
from datetime import date

__all__ = ["KINDS", "faults", "sections"]

KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def sections(text: str) -> dict[str, str]:
    """Return what stands under each heading of a version, ``Unreleased`` first, in the order of the file."""
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def faults(text: str, version: str, tag: str | None) -> list[str]:
    """Return what is wrong with a changelog for a version: ``tag`` names the one that HEAD is tagged as, if any."""
    found = sections(text)
    wrong: list[str] = []
    headings = list(found)
    if not headings or headings[0] != "[Unreleased]":
        wrong.append("The first heading is not [Unreleased].")
    released = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d)", heading) for heading in headings[1:]]
    for heading, match in zip(headings[1:], released, strict=True):
        if match is None or not _is_day(match[4]):
            wrong.append(f"{heading}: write [MAJOR.MINOR.PATCH] - YEAR-MONTH-DAY.")
    order = [tuple(map(int, match.groups()[:3])) for match in released if match]
    if order != sorted(set(order), reverse=True):
        wrong.append("The versions do not stand newest first, each once.")
    for heading, body in found.items():
        kinds = re.findall(r"^### (.+)$", body, re.MULTILINE)
        if kinds != [kind for kind in KINDS if kind in kinds]:
            wrong.append(f"{heading}: its parts are to be some of {', '.join(KINDS)}, in this order, each once.")
        if heading != "[Unreleased]" and not re.search(r"^- ", body, re.MULTILINE):
            wrong.append(f"{heading}: says nothing.")
    if tag is not None:
        named = f"[{version}]"
        if tag != f"v{version}":
            wrong.append(
                f"HEAD is tagged {tag}, and the version is {version}: tag v{version}, or mend gateway/__init__.py."
            )
        if not any(heading.startswith(named) for heading in headings):
            wrong.append(f"HEAD is tagged {tag}, and there is no section {named}.")
        if re.search(r"^- ", found.get("[Unreleased]", ""), re.MULTILINE):
            wrong.append("HEAD is tagged, and something is [Unreleased]: it belongs to the version.")
    return wrong


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
