"""The client of the gateway's own HTTP API, one method for each call. Must not open the database.

Owns which gateway is meant and the token for it, the requests, and what their failures are called at a terminal. Unlike
``gateway.client`` it hands on the JSON as it came and as it is to be sent, and tries nothing again by itself; what an
answer has, that one knows. Called by the commands that ask a running gateway.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from gateway.client.calls import given, path_of
from gateway.client.results import read_attempts, read_batch, read_callback, read_count, read_page
from gateway.config.load import CONFIG_VARIABLE, load_some
from gateway.core.addresses import is_loopback_host
from gateway.core.clock import SystemClock
from gateway.core.errors import ConfigError, GatewayError
from gateway.core.retryafter import parse_retry_after

_TIMEOUT_S = 30.0
_BATCH_TIMEOUT_S = 300.0  # the names of a thousand URLs may have to be looked up


class ApiError(GatewayError):
    """The gateway refused, then with its ``problem``, or could not be reached."""

    def __init__(
        self,
        message: str,
        problem: Mapping[str, Any] = MappingProxyType({}),
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """``retry_after_s``: how long a gateway that has no room now asked to be left alone."""
        super().__init__(message)
        self.problem = problem
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def passes(self) -> bool:
        """Whether the same request may be answered otherwise later."""
        return self.status in (429, 503)


class Unreachable(ApiError):
    """Nothing answers where the gateway should be; trying again may help."""

    exit_code = 3
    passes = True


def find(
    environ: Mapping[str, str],
    config_path: Path | None,
    url: str | None,
    token: str | None,
    *,
    as_operator: bool = False,
) -> tuple[str, str | None]:
    """Return where the gateway is and the token to send, those of the command line first. Raises ConfigError.

    A token of the surroundings is for the gateway that they name: where the command line names another, that one gets
    none. ``as_operator``: rather the operator's token than a client's, where there is one that can be read.
    """
    named = {name: value for name, value in environ.items() if name != CONFIG_VARIABLE}
    if url:
        if token or not _is_named(url, named):
            return url, token
    else:
        url = load_some(named, None, ("url",))["url"]
    if url:
        # Perhaps not the gateway that the file of settings is for: nobody else gets its token.
        environ, config_path = named, None
    else:
        url = _configured(environ, config_path)
    return url, token or _token(environ, config_path, as_operator=as_operator)


def _token(environ: Mapping[str, str], config_path: Path | None, *, as_operator: bool) -> str | None:
    for variable in ("GATEWAY_TOKEN", "GATEWAY_OPERATOR_TOKEN"):
        if environ.get(variable, "").strip():
            # The token to send: beside it a file may be named for the gateway that runs in the same container.
            environ = {name: value for name, value in environ.items() if name != f"{variable}_FILE"}
    no_operator: ConfigError | None = None
    if as_operator:
        try:
            if operator := load_some(environ, config_path, ("operator_token",))["operator_token"]:
                return str(operator)
        except ConfigError as exc:  # a file that only the gateway's user reads, say
            no_operator = exc
    token: str | None = load_some(environ, config_path, ("token",))["token"]
    if token is None and no_operator is not None:
        raise no_operator
    return token


def _is_named(url: str, environ: Mapping[str, str]) -> bool:
    """Whether this is the gateway that the environment names, or the one on this machine that it has settings of."""
    try:
        return _origin(url) == _origin(_configured(environ, None))
    except (ConfigError, httpx.InvalidURL, UnicodeError):
        return False


def _origin(url: str) -> tuple[str, str, int | None]:
    its = httpx.URL(url)
    here = its.host in ("0.0.0.0", "::") or is_loopback_host(its.host)  # noqa: S104 - where it is asked, not where it listens
    return its.scheme, "localhost" if here else its.host, its.port or {"http": 80, "https": 443}.get(its.scheme)


def _configured(environ: Mapping[str, str], config_path: Path | None) -> str:
    found: str | None = load_some(environ, config_path, ("url",))["url"]
    if found is not None:
        return found
    at = load_some(environ, config_path, ("host", "port"))
    host = f"[{at['host']}]" if ":" in at["host"] else at["host"]
    return f"http://{host}:{at['port']}"


class RemoteGateway:
    """Talks to one gateway; every method raises ApiError. Raises ConfigError for a URL or token that cannot be used."""

    def __init__(self, base_url: str, token: str | None) -> None:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self.url = base_url
        self.token = token
        try:
            url = httpx.URL(base_url)
        except (httpx.InvalidURL, UnicodeError) as exc:
            raise ConfigError([f"--url: {exc}; write it like http://127.0.0.1:8080"]) from exc
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError(["--url: write it like http://127.0.0.1:8080"])
        if token is not None and not (token.isascii() and token.isprintable()):
            raise ConfigError(["--token: write visible ASCII characters without spaces"])
        # trust_env: a proxy of the surroundings has no business between a sidecar and its neighbour.
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=_TIMEOUT_S, trust_env=False)

    def __enter__(self) -> "RemoteGateway":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._http.close()

    # What is asked has the names that it has in the API; what is None is left out.

    def register(self, **members: Any) -> dict[str, Any]:
        return self._call("POST", "/v1/callbacks", read_callback, json=given(members))

    def register_batch(self, registrations: Sequence[bytes]) -> list[dict[str, Any]]:
        """Register each of these, which are JSON; return for each its status with its callback or its problem."""
        content = b'{"callbacks":[%b]}' % b",".join(registrations)
        headers = {"content-type": "application/json"}
        options = {"content": content, "headers": headers, "timeout": _BATCH_TIMEOUT_S}
        read = partial(read_batch, expected=len(registrations))
        answers: list[dict[str, Any]] = self._call("POST", "/v1/callbacks/batch", read, **options)["data"]
        return answers

    def list_callbacks(self, **query: Any) -> dict[str, Any]:
        return self._call("GET", "/v1/callbacks", read_page, params=given(query))

    def get(self, callback_id: str) -> dict[str, Any]:
        return self._call("GET", path_of("callbacks", callback_id), read_callback)

    def attempts(self, callback_id: str) -> list[dict[str, Any]]:
        attempts: list[dict[str, Any]] = self._call(
            "GET", f"{path_of('callbacks', callback_id)}/attempts", read_attempts
        )["data"]
        return attempts

    def cancel(self, callback_id: str) -> None:
        self._call("DELETE", path_of("callbacks", callback_id))

    def redeliver(self, callback_id: str) -> dict[str, Any]:
        return self._call("POST", f"{path_of('callbacks', callback_id)}/redeliver", read_callback)

    def redeliver_dead(self, **members: Any) -> int:
        """Redeliver all that died as ``members`` say, or only count them; return how many."""
        asked = {"state": "dead", **given(members)}
        count: int = self._call("POST", "/v1/redeliveries", read_count, json=asked, timeout=_BATCH_TIMEOUT_S)["count"]
        return count

    def metrics(self) -> str:
        """Return the metrics in Prometheus' text format."""
        return self._request("GET", "/metrics").text

    def reasons(self) -> list[str]:
        """Return why the gateway, or one of its upstreams, does not work as it should; nothing where it names none."""
        try:
            reasons = self._call("GET", "/readyz").get("reasons")
        except ApiError as error:
            reasons = error.problem.get("reasons")
        return [reason for reason in reasons if isinstance(reason, str)] if isinstance(reasons, list) else []

    def _call(
        self, method: str, path: str, read: Callable[[Any], object] | None = None, **options: Any
    ) -> dict[str, Any]:
        """Return the answer as it came, once ``read`` has found in it what a gateway's has."""
        response = self._request(method, path, **options)
        if response.status_code == 204:
            return {}
        answer = self._read(response)
        if read is not None:
            try:
                read(answer)
            except ValueError:
                raise self._no_gateway(response) from None
        return answer

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except (ValueError, httpx.InvalidURL) as exc:  # text that no request can carry
            raise ApiError(f"The request cannot be made: {exc}.") from exc
        except httpx.HTTPError as exc:
            raise Unreachable(
                f"No gateway answers at {self.url} ({exc}). Start `gateway serve`, or name another with --url."
            ) from exc
        if response.is_success:
            return response
        problem = self._read(response)
        message = str(problem.get("detail") or response.reason_phrase)
        if response.status_code == 401:
            message += " Give the token with --token, or with GATEWAY_TOKEN for the gateway of GATEWAY_URL."
        retry_after_s = None
        if response.status_code in (429, 503):
            retry_after_s = parse_retry_after(response.headers.get("retry-after"), SystemClock().now())
        raise ApiError(message, problem, status=response.status_code, retry_after_s=retry_after_s)

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer = response.json()
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise self._no_gateway(response)
        return answer

    def _no_gateway(self, response: httpx.Response) -> ApiError:
        return ApiError(f"{self.url} answered {response.status_code}: not a gateway's answer.")
