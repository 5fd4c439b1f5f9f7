"""What is read of ``config/*.yaml`` and ``config/kubernetes/``, and what their schemas say of it.

Owns how a file of YAML is read: twice the same key is a mistake, as it is to Kubernetes. The schemas stand in
``tests/fixtures/schemas``. Called by the tests that hold these files against the gateway.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema_rs import Draft202012Validator
from ruamel.yaml import YAML

from tests.manual import ROOT

__all__ = ["COMPOSE", "REPLICAS", "documents", "faults", "only"]

COMPOSE = ROOT / "config" / "compose.yaml"
REPLICAS = ROOT / "config" / "kubernetes" / "replicas.yaml"
SCHEMAS = Path(__file__).parent / "fixtures" / "schemas"


@cache
def documents(text: str) -> list[Any]:
    """Return what a text of YAML holds; nobody changes it. Raises ruamel.yaml's YAMLError."""
    return list(YAML(typ="safe", pure=True).load_all(text))


def only(text: str, kind: str) -> dict[str, Any]:
    """Return the one object of a kind that a text of Kubernetes' YAML holds."""
    (found,) = (document for document in documents(text) if document["kind"] == kind)
    return found


def faults(document: Any) -> list[str]:
    """Return what is wrong with a compose file, or with an object of Kubernetes, by its schema."""
    if "kind" not in document and "apiVersion" not in document:
        validator = _compose()
    else:
        group, _, version = document.get("apiVersion", "").rpartition("/")
        validator = _kubernetes(f"io.k8s.api.{group or 'core'}.{version}.{document.get('kind')}")
        if validator is None:
            return [f"no {document.get('kind')} of {document.get('apiVersion')} is known"]
    return [f"{'.'.join(map(str, error.instance_path))}: {error.message}" for error in validator.iter_errors(document)]


@cache
def _schema(name: str) -> dict[str, Any]:
    return json.loads((SCHEMAS / name).read_text("utf-8"))


@cache
def _compose() -> Draft202012Validator:
    return Draft202012Validator({**_schema("compose.json"), "$id": "urn:compose"})


@cache
def _kubernetes(name: str) -> Draft202012Validator | None:
    known = _schema("kubernetes.json")
    return Draft202012Validator({**known, "$ref": f"#/$defs/{name}"}) if name in known["$defs"] else None
