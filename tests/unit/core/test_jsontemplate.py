"""JSON with gaps, and what fills them."""

from typing import Any

import pytest

from gateway.core import lenientjson
from gateway.core.jsontemplate import filled, mistakes

RECORD = {
    "id": "t",
    "none": None,
    "empty": "",
    "text": '{"urls": [{"url": "a"}, {"url": "b"}]}',
    "tracks": [{"audioUrl": "1", "tags": None}, {"audioUrl": "2", "more": [3]}],
    "flag": False,
}
TRACKS = [{"audio_url": "{tracks.*.audioUrl}", "tags": "{tracks.*.tags}", "kind": "song", "more": "{tracks.*.more.0}"}]


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ({"code": 200, "id": "{id}", "list": ["x", 1, None]}, {"code": 200, "id": "t", "list": ["x", 1, None]}),
        # What is not there is left out, what is null is null.
        ({"a": "{absent}", "b": "{none}", "c": "{id.more}", "d": "{}", "e": ["{absent}"]},
         {"b": None, "d": None, "e": []}),
        ({"a": {"b": "{absent}"}}, {"a": {}}),
        ({"a": "{absent|501}", "b": "{none|Failed.}", "c": "{empty|x}", "d": "{flag|x}", "e": "{absent|}"},
         {"a": 501, "b": "Failed.", "c": "x", "d": False, "e": ""}),
        ({"urls": ["{text.urls.*.url}"]}, {"urls": ["a", "b"]}),
        ({"urls": ["{absent.*.url}"], "more": ["{id.*}"]}, {"urls": [], "more": []}),
        ({"tracks": TRACKS}, {"tracks": [
            {"audio_url": "1", "tags": None, "kind": "song"}, {"audio_url": "2", "kind": "song", "more": 3},
        ]}),
        ("{absent}", None),
    ],
)  # fmt: skip
def test_gaps_are_filled(template: Any, made: Any) -> None:
    """With what stands at their path, whatever that is; all else stays as it is written."""
    assert list(mistakes(template)) == []
    assert filled(template, RECORD) == made


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ('{"urls": ["a"], "prompt": "two\nlines"}', {"urls": ["a"]}),
        ('{"urls": ["a"], "score": NaN}', {"urls": ["a"]}),
        ("[" * 100_000, {}),
        ('{"urls": ["a"], "deep": %s}' % ("[" * 5000 + "]" * 5000), {"urls": ["a"]}),
    ],
    ids=["a line break", "NaN", "without an end", "deep"],
)
def test_json_in_a_text_is_read_leniently(text: str, made: Any) -> None:
    """What an outcome is read from fills gaps as well; and whatever a text holds, there is something to send."""
    assert filled({"urls": "{text.urls}"}, {"text": text}) == made


def test_json_in_a_text_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many items stand in it, and however many gaps each of these fills."""
    reads = []
    decode = lenientjson.decode

    def counting(data: bytes | str) -> Any:
        reads.append(data)
        return decode(data)

    monkeypatch.setattr(lenientjson, "decode", counting)
    text = '{"tracks": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]}'
    made = filled([{"x": "{text.tracks.*.a}", "y": "{text.tracks.*.b}"}], {"text": text})
    assert made == [{"x": 1, "y": 2}, {"x": 3, "y": 4}]
    assert reads == [text]


@pytest.mark.parametrize(
    "template",
    [
        "{a", "x {a}", "{a..b}", "{a b}", "{a}{b}", {"x": {"y": "{ }"}}, "{a.*.b}", {"x": "{*}"},
        ["{a.*}", "{a.*}"], [{"x": "{a.*}", "y": "{b.*}"}], [["{a.*}"], "x"], [{"x": ["{a.*.b.*}"]}], ["{a.*.*}"],
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_filled(template: Any) -> None:
    """It is refused before anything is to be filled."""
    assert list(mistakes(template))
