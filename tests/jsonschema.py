"""Whether a value is what a JSON Schema says: the keywords that ``/openapi.json`` uses, and no others.

Owns no schema. Called by the tests that hold answers and examples against the document. Stricter than the standard: a
member that an object's schema does not name is a fault, as it would be one of the document's.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["faults"]

TYPES: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "number": (int, float),
    "integer": (int,),
    "string": (str,),
}
INSTANT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
TOLD = {"$ref", "anyOf", "type", "properties", "items", "title", "description", "default", "examples"}


def faults(value: Any, schema: Mapping[str, Any], known: Mapping[str, Any], where: str = "$") -> Iterator[str]:
    """Yield what is wrong with a value; ``known``: the document's ``components.schemas``."""
    if "$ref" in schema:
        yield from faults(value, known[schema["$ref"].rpartition("/")[2]], known, where)
    if "anyOf" in schema and all(any(faults(value, one, known, where)) for one in schema["anyOf"]):
        yield f"{where}: {value!r} is none of {schema['anyOf']}"
    if "type" in schema and not is_of(value, schema["type"]):
        yield f"{where}: {value!r} is no {schema['type']}"
        return  # what the others say is of that type
    for keyword in schema.keys() - TOLD:
        if not CHECKS[keyword](value, schema[keyword]):
            yield f"{where}: {value!r} against {keyword} {schema[keyword]!r}"
    if isinstance(value, dict) and "properties" in schema:
        for name, inner in value.items():
            if name in schema["properties"]:
                yield from faults(inner, schema["properties"][name], known, f"{where}.{name}")
            elif not schema.get("additionalProperties", False):
                yield f"{where}: {name} is not told of"
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from faults(inner, schema.get("items", {}), known, f"{where}[{index}]")


def is_of(value: Any, kinds: str | list[str]) -> bool:
    if isinstance(value, bool):
        return "boolean" in kinds
    return any(isinstance(value, TYPES[kind]) for kind in ([kinds] if isinstance(kinds, str) else kinds))


CHECKS: dict[str, Any] = {
    "enum": lambda value, words: value in words,
    "required": lambda value, names: set(names) <= value.keys(),
    "additionalProperties": lambda value, allowed: isinstance(allowed, bool),  # below, with the members
    "minItems": lambda value, least: len(value) >= least,
    "maxItems": lambda value, most: len(value) <= most,
    "minLength": lambda value, least: len(value) >= least,
    "maxLength": lambda value, most: len(value) <= most,
    "minimum": lambda value, least: value >= least,
    "maximum": lambda value, most: value <= most,
    "pattern": lambda value, pattern: re.search(pattern, value) is not None,
    "format": lambda value, name: name == "date-time" and re.fullmatch(INSTANT, value) is not None,
}
