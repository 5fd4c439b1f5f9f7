"""Parts that statements of PostgreSQL are made of: the rows that are given to one, and counting a part at a time.

Pure; called by the modules of statements.
"""

from typing import Any

from gateway.core.model import Callback, Task
from gateway.store.dialect import Counted

CALLBACK = ", ".join(f"c.{name}" for name in Callback.__struct_fields__ if name != "task")
TASK = ", ".join(f"t.{name}" for name in Task.__struct_fields__ if name not in ("outcome", "outcome_bytes"))
"""A callback is shown with its task but without the outcome, which may be large."""


def given(name: str, *columns: str, place: bool = False) -> str:
    """Make the rows that are handed over as an array for each column; ``place`` counts them from 1.

    A column is a whole number where it names no other type. Texts compare by their bytes, as they do in the tables.
    """
    names, arrays = [], []
    for number, column in enumerate(columns, 1):
        column_name, _, kind = column.partition(" ")
        names.append(column_name)
        arrays.append(f"CAST(${number} AS {kind or 'bigint'}[])" + (' COLLATE "C"' if kind == "text" else ""))
    counting = " WITH ORDINALITY" if place else ""
    names += ["place"] if place else []
    return f"unnest({', '.join(arrays)}){counting} AS {name} ({', '.join(names)})"


def counted(label: str, instant: str, source: str, condition: str, keys: str, start: tuple[Any, ...]) -> Counted:
    """Make what counts a table's rows that meet a condition by their label, along an index of these keys."""
    columns = keys.count(",") + 1
    after = f"({keys}) > ({', '.join(f'${number}' for number in range(1, columns + 1))})"
    size = f"CAST(${columns + 1} AS bigint)"
    part = f"SELECT {keys} FROM {source} WHERE {condition} AND {after} ORDER BY {keys} LIMIT"  # noqa: S608 - constants of ``sql.py``
    return Counted(
        f"SELECT {label}, count(*), min({instant}) FROM ({part} {size}) AS part GROUP BY 1",  # noqa: S608 - as above
        f"{part} 1 OFFSET {size} - 1",
        start,
    )
