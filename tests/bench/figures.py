"""What a benchmark finds: figures, each with its runs, its target and the peers of the same session.

Owns what "met" means and how peers are compared. Knows neither how a figure is measured nor how it is shown.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from harness import median_of


@dataclass(frozen=True)
class Target:
    """A bound on a median: at least or at most ``value``, or less than it."""

    sign: str
    value: float

    def met(self, value: float) -> bool:
        match self.sign:
            case "≥":
                return value >= self.value
            case "≤":
                return value <= self.value
            case _:
                return value < self.value


def at_least(value: float) -> Target:
    return Target("≥", value)


def at_most(value: float) -> Target:
    return Target("≤", value)


def below(value: float) -> Target:
    return Target("<", value)


@dataclass
class Figure:
    """One line of the report."""

    name: str
    title: str
    unit: str
    runs: list[float]
    """The value of each run, in their order."""
    target: Target | None = None
    how: str = ""
    """How it was measured, in a sentence for whom the title is not enough."""
    peers: dict[str, float] = field(default_factory=dict)
    """How many times the peer's median it is, by the peer's title."""
    peer: bool = False
    """Whether this is not the gateway's."""
    absent: str = ""
    """Why there is no value."""
    of_medians: float | None = None
    """The value where it is not the median of the runs but made of other figures' medians."""

    @property
    def value(self) -> float:
        return median_of(self.runs).median if self.of_medians is None else self.of_medians

    @property
    def spread(self) -> float:
        """From the lowest to the highest run, as a share of the value."""
        return (max(self.runs) - min(self.runs)) / self.value if self.value else 0.0

    @property
    def met(self) -> bool | None:
        return None if self.target is None or self.absent else self.target.met(self.value)

    def as_json(self) -> dict[str, Any]:
        known = {} if self.absent else {"value": self.value, "spread": self.spread, "met": self.met}
        return asdict(self) | known

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Figure":
        known = {name: value[name] for name in cls.__dataclass_fields__}
        return cls(**known | {"target": value["target"] and Target(**value["target"])})


def compare(ours: Figure, *peers: Figure) -> None:
    """Note how many times each peer's median ours is."""
    ours.peers |= {peer.title: ours.value / peer.value for peer in peers if not peer.absent}


def ratio(name: str, title: str, ours: Figure, theirs: Figure, target: Target | None = None) -> Figure:
    """Return how many times theirs ours is, by the medians; the runs are compared round by round."""
    if absent := ours.absent or theirs.absent:
        return Figure(name, title, "x", [], target, absent=absent)
    runs = [our / their for our, their in zip(ours.runs, theirs.runs, strict=True)]
    return Figure(name, title, "x", runs, target, of_medians=ours.value / theirs.value)
