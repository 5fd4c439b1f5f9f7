"""Further upstreams in the file, each with its key and its limits."""

from pathlib import Path

import pytest

from gateway.config.load import load
from gateway.core.errors import ConfigError
from gateway.core.ratelimit import RateWindow

UPSTREAMS = """
[upstreams.runway]
api_key = "sk-canary"
rate = ["2/1", "100/60"]

[upstreams.second-key]
profile = "kie"
url = "http://127.0.0.1:9/"
create_rate = "20/10"
"""


def test_more_upstreams_stand_in_the_file(tmp_path: Path) -> None:
    """Each table [upstreams.NAME] is one more upstream; what it leaves out is its profile's."""
    path = tmp_path / "gateway.toml"
    path.write_text(UPSTREAMS)
    settings = load({}, path)
    default, runway, second = settings.upstreams
    assert (default.name, default.default, runway.default) == ("aigptimage", True, False)
    assert (runway.name, runway.profile.name, runway.api_key) == ("runway", "runway", "sk-canary")
    assert runway.url == runway.profile.base_url
    assert runway.rate == (RateWindow(2, 1.0), RateWindow(100, 60.0))
    assert (second.profile.name, second.url, second.api_key) == ("kie", "http://127.0.0.1:9", None)
    assert second.create_rate == (RateWindow(20, 10.0),)
    assert "canary" not in repr(settings)


def test_an_upstreams_key_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    """api_key_file names it."""
    (tmp_path / "key").write_text("sk-from-file\n")
    path = tmp_path / "gateway.toml"
    path.write_text(f'[upstreams.kie]\napi_key_file = "{tmp_path / "key"}"\n')
    assert load({}, path).upstreams[1].api_key == "sk-from-file"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("upstreams = 1", "write a table for each upstream"),
        ("[upstreams]\nrunway = 1", "write a table for each upstream"),
        ("[upstreams.Runway]", "small letters"),
        ("[upstreams.kie]\napi_kee = 1", "did you mean api_key"),
        ("[upstreams.kie]\nrate = 'fast'", "requests/seconds windows"),
        ("[upstreams.kie]\nurl = 'ftp://x'", "http or https URL"),
        ("[upstreams.kie]\napi_key = 'sk canary'", "visible ASCII"),
        ("[upstreams.kie]\napi_key = 'a'\napi_key_file = '/b'", "both api_key and api_key_file"),
        ("[upstreams.kie]\napi_key_file = '/nowhere/key'", "api_key_file"),
    ],
)
def test_mistakes_in_more_upstreams(tmp_path: Path, text: str, expected: str) -> None:
    """Each is named with its table, and no key is shown."""
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected) as caught:
        load({}, path)
    assert "canary" not in str(caught.value)
