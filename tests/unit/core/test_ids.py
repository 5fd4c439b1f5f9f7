"""A callback's id: it sorts by its time, and no two are the same."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.ids import new_callback_id

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
NOW = 1_795_428_033_120
moments = st.integers(0, 2**48 - 1)


@given(now=moments)
def test_an_id_carries_its_time(now: int) -> None:
    """An id is cb_ and 26 characters of Crockford's base 32, whose first ten are the milliseconds."""
    made = new_callback_id(now)
    assert made.startswith("cb_")
    digits = [ALPHABET.index(character) for character in made[3:]]
    assert len(digits) == 26
    number = 0
    for digit in digits:
        number = number * 32 + digit
    assert number >> 80 == now
    assert number < 2**128


@given(earlier=moments, later=moments)
def test_ids_sort_by_time(earlier: int, later: int) -> None:
    """An id of an earlier millisecond sorts before one of a later, as text."""
    if earlier < later:
        assert new_callback_id(earlier) < new_callback_id(later)


def test_ids_differ_within_one_millisecond() -> None:
    """Ids made at the same moment are all different, and their random parts cover the alphabet."""
    made = [new_callback_id(NOW) for _ in range(2000)]
    assert len(set(made)) == 2000
    for place in range(13, 29):
        assert {one[place] for one in made} == set(ALPHABET)
