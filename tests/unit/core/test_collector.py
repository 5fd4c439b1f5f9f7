"""What the garbage collector is told not to look at: there is no cycle through it that it could find."""

from collections.abc import Iterator

import msgspec
import pytest
from msgspec import inspect

from gateway.api import schema, table  # noqa: F401 - the table imports all that goes over the wire
from gateway.core import model

_VALUES = (
    inspect.BoolType,
    inspect.BytesType,
    inspect.EnumType,
    inspect.FloatType,
    inspect.IntType,
    inspect.LiteralType,
    inspect.NoneType,
    inspect.RawType,
    inspect.StrType,
)
_JSON = inspect.DictType(inspect.StrType(), inspect.AnyType())  # decoded, which makes a tree


class Chain(msgspec.Struct):
    next: "Chain | None"


class Waiting(msgspec.Struct):
    future: object


def kinds(base: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


def only_values(info: inspect.Type, above: tuple[type, ...] = ()) -> bool:
    """Whether a field of this type can hold nothing that leads back to the struct it is in."""
    match info:
        case inspect.Metadata(type=described):
            return only_values(described, above)
        case inspect.UnionType(types) | inspect.TupleType(types):
            return all(only_values(one, above) for one in types)
        case inspect.ListType(item_type):
            return only_values(item_type, above)
        case inspect.TypedDictType(fields=fields):
            return all(only_values(field.type, above) for field in fields)
        case inspect.StructType(cls, fields):
            return cls not in above and all(only_values(field.type, (*above, cls)) for field in fields)
        case _:
            return isinstance(info, _VALUES) or info == _JSON


@pytest.mark.parametrize("kind", [*kinds(model.Noun), *kinds(schema.Wire)])
def test_what_the_collector_does_not_look_at_holds_only_values(kind: type[msgspec.Struct]) -> None:
    """A future, a function or a struct of its own kind in it could lead back to it, and would stay for ever."""
    assert not kind.__struct_config__.gc
    assert only_values(inspect.type_info(kind))


@pytest.mark.parametrize("kind", [Chain, Waiting])
def test_what_may_lead_back_is_told_from_values(kind: type[msgspec.Struct]) -> None:
    """What may hold another of its own kind, or anything at all, is not taken for values."""
    assert not only_values(inspect.type_info(kind))
