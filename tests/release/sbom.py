"""``make sbom``: list what the image is made of beside its base, each package with its hashes, as CycloneDX.

Run with the interpreter of ``.venv-supply``; writes one JSON file, the same for the same lock. Of the program itself
``cyclonedx-py`` knows no version, as pyproject.toml has none: it is set here, and the result held against the schema
of CycloneDX. Exits 1 where that finds a mistake.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).parents[2]
LOCK = "requirements.lock"


def main(target: Path) -> None:
    """Write the list to a file."""
    tool = Path(sys.executable).with_name("cyclonedx-py")
    words = ("requirements", LOCK, "--pyproject", "pyproject.toml", "--output-reproducible", "--sv", "1.6")
    made = subprocess.run([tool, *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    listed = json.loads(made)
    program = listed["metadata"]["component"]
    source = (ROOT / "gateway/__init__.py").read_text("utf-8")
    program["version"] = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)[1]
    program["purl"] = f"pkg:generic/{program['name']}@{program['version']}"
    for edge in listed["dependencies"]:
        if edge["ref"] == program["bom-ref"]:
            edge["dependsOn"] = [component["bom-ref"] for component in listed["components"]]
    text = json.dumps(listed, indent=2, sort_keys=True) + "\n"
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"The list is not what CycloneDX's schema says: {error}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, "utf-8")
    print(f"{target}: {len(listed['components'])} packages of {LOCK}, version {program['version']} of the gateway")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
