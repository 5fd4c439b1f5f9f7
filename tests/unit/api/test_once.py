"""What tells a create that is sent again from another one under the same id."""

import pytest

from gateway.api.once import digest_of

JSON = "application/json"
FORM = "multipart/form-data; boundary="
PART = b'--%b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\n%b\r\n--%b--\r\n'


def test_the_same_bytes_are_the_same_request() -> None:
    """Whatever JSON they are called; one byte more, or another path, is another request."""
    digest = digest_of("/a", JSON, b'{"n":1}')
    assert digest_of("/a", "", b'{"n":1}') == digest
    others = [digest_of("/a", JSON, b'{"n": 1}'), digest_of("/a?b", JSON, b'{"n":1}'), digest_of("/a\0", JSON, b"")]
    assert len({digest, *others}) == 4


@pytest.mark.parametrize("form", [FORM + "{}", FORM + '"{}"', "Multipart/Form-Data; charset=utf-8;boundary={}; a=b"])
def test_a_form_is_the_same_whatever_stands_between_its_parts(form: str) -> None:
    """A client that tries again draws that anew; what is in the parts tells."""
    first = digest_of("/a", form.format("xyz"), PART % (b"xyz", b"cat", b"xyz"))
    assert digest_of("/a", form.format("uvw0"), PART % (b"uvw0", b"cat", b"uvw0")) == first
    assert digest_of("/a", form.format("xyz"), PART % (b"xyz", b"dog", b"xyz")) != first


def test_a_form_of_countless_parts_is_taken_as_it_is() -> None:
    """To find all of them takes as long as there are many, and nobody else's large request is read meanwhile."""
    few, many = [
        [digest_of("/a", FORM + name, b"--%b\r\n" % name.encode() * parts) for name in ("xyz", "uvw0")]
        for parts in (10_000, 10_001)
    ]
    assert few[0] == few[1]
    assert many[0] != many[1]
