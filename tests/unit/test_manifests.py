"""The files of ``config/`` for several replicas: right by their schemas, and true of this gateway."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml.constructor import DuplicateKeyError

from gateway.api.auth import PUBLIC
from gateway.config.databaseurl import is_postgres
from gateway.config.load import load
from gateway.config.settings import SETTINGS, Settings
from gateway.core.errors import ConfigError
from gateway.signature import make_secret
from tests.manifests import COMPOSE, REPLICAS, documents, faults, only
from tests.manual import ROOT, page

KUBERNETES = ROOT / "config" / "kubernetes"
EVERY = [COMPOSE, REPLICAS, KUBERNETES / "base" / "gateway.yaml", KUBERNETES / "overlays" / "sidecar" / "app.yaml"]
"""What is whole by itself; tests/unit/test_kustomize.py has what is put together."""
TEXTS = {"compose": COMPOSE.read_text("utf-8"), "replicas": REPLICAS.read_text("utf-8")}
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
UNITS = {"Mi": 1024 * 1024, "m": 0.001, "": 1.0}
RESIDENT = 64_000_000
"""Bytes after half an hour at 1,000 lives a second, with no large answer: gateway/manual/measured.md."""


def compose(text: str = TEXTS["compose"]) -> Any:
    (document,) = documents(text)
    return document


def service() -> dict[str, Any]:
    return compose()["services"]["gateway"]


def deployment(text: str = TEXTS["replicas"]) -> dict[str, Any]:
    return only(text, "Deployment")["spec"]


def pod() -> dict[str, Any]:
    return deployment()["template"]["spec"]


def container() -> dict[str, Any]:
    (one,) = pod()["containers"]
    return one


def variables_of_compose(text: str) -> dict[str, str]:
    """Return the environment that compose gives the gateway."""
    return compose(text)["services"]["gateway"]["environment"]


def variables_of_replicas(text: str) -> dict[str, str]:
    """Return the environment that Kubernetes gives the gateway."""
    (one,) = deployment(text)["template"]["spec"]["containers"]
    return {variable["name"]: variable["value"] for variable in one["env"]}


VARIABLES = {"compose": variables_of_compose, "replicas": variables_of_replicas}
BOTH = pytest.mark.parametrize("which", TEXTS)


def settings(which: str, folder: Path, text: str = "") -> Settings:
    """Load what the image's defaults and a manifest's variables say together, each secret's file made in ``folder``."""
    environ = dict(re.findall(r"\b(GATEWAY_\w+)=(\S+)", re.sub(r"^#.*", "", DOCKERFILE, flags=re.MULTILINE)))
    for name, value in VARIABLES[which](text or TEXTS[which]).items():
        environ[name] = value
        if name.endswith("_FILE"):
            path = folder / Path(value).name
            path.write_text(make_secret() if "webhook" in path.name else "tok", "utf-8")
            environ[name] = str(path)
    return load(environ)


def amount(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(\D*)", text).groups()
    return int(number) * UNITS[unit]


# By their schemas.


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_each_is_what_its_schema_says(path: Path) -> None:
    """Every document of it, with no member that the schema does not name."""
    found = documents(path.read_text("utf-8"))
    assert found
    assert [fault for document in found for fault in faults(document)] == []


@pytest.mark.parametrize(
    ("which", "right", "wrong", "fault"),
    [
        ("compose", "depends_on:", "dependson:", "dependson"),
        ("compose", "\nvolumes:", "\nvolume:", "volume"),
        ("compose", "condition: service_healthy", "condition: healthy", "healthy"),
        ("compose", "stop_grace_period: 30s", "stop_grace_period: [30]", "stop_grace_period"),
        ("compose", "replicas: 3", "replicas: {}", "deploy.replicas"),
        ("replicas", "maxUnavailable: 0", "maxUnavailabel: 0", "maxUnavailabel"),
        ("replicas", "readinessProbe:", "readyProbe:", "readyProbe"),
        ("replicas", "replicas: 3", "replicas: three", "three"),
        ("replicas", "{path: /readyz, port: http}", "{path: /readyz}", "port"),
        ("replicas", "unhealthyPodEvictionPolicy", "unhealthyPodEviction", "unhealthyPodEviction"),
        ("replicas", "kind: Service\n", "kind: Servise\n", "no Servise of v1 is known"),
        ("replicas", "apiVersion: apps/v1\n", "apiVersion: apps/v1beta1\n", "no Deployment of apps/v1beta1 is known"),
    ],
)
def test_a_mistake_is_noticed(which: str, right: str, wrong: str, fault: str) -> None:
    """A misspelt member, one of another type, one that is missing, an object that there is not."""
    assert TEXTS[which].count(right) >= 1
    found = [one for document in documents(TEXTS[which].replace(right, wrong, 1)) for one in faults(document)]
    assert any(fault in one for one in found), found


def test_a_member_twice_is_noticed() -> None:
    """Kubernetes refuses it, and to a lenient reader the last one counts."""
    with pytest.raises(DuplicateKeyError):
        documents(TEXTS["replicas"].replace("  replicas: 3\n", "  replicas: 3\n  replicas: 4\n"))


def test_the_manual_s_example() -> None:
    """That of one gateway with a file is right as well, and as closed as the replicas are."""
    section = page("install").partition("\n## Compose\n")[2].partition("\n## ")[0]
    (example,) = documents(re.search(r"```yaml\n(.*?)```", section, re.DOTALL)[1])
    assert faults(example) == []
    own = example["services"]["gateway"]
    closed = ("read_only", "cap_drop", "security_opt", "restart", "stop_grace_period")
    assert {key: own[key] for key in closed} == {key: service()[key] for key in closed}


# What they set.


@BOTH
def test_the_gateway_takes_what_is_set(which: str, tmp_path: Path) -> None:
    """With the image's defaults its settings are complete: on a PostgreSQL, and each secret in a file."""
    found = settings(which, tmp_path)
    assert is_postgres(found.database_url)
    assert all((found.database_password, found.token, found.upstream_api_key, found.webhook_secret))
    assert found.host == "0.0.0.0"


@BOTH
def test_a_setting_that_there_is_not(which: str, tmp_path: Path) -> None:
    """A misspelt one, or one that went, is found out here, not by a replica that does not start."""
    text = TEXTS[which].replace("GATEWAY_TOKEN_FILE", "GATEWAY_TOKENS_FILE")
    with pytest.raises(ConfigError, match="GATEWAY_TOKENS_FILE: no such setting"):
        settings(which, tmp_path, text)


@BOTH
def test_every_setting_named_is_one(which: str) -> None:
    """Those in remarks too."""
    known = {setting.env for setting in SETTINGS} | {f"{setting.env}_FILE" for setting in SETTINGS if setting.secret}
    assert set(re.findall(r"GATEWAY_\w+", TEXTS[which])) - known == set()


def test_no_secret_stands_in_the_image() -> None:
    """Their files lie outside of what the image and the wheel are made from, and git passes them over."""
    for secret in compose()["secrets"].values():
        path = (COMPOSE.parent / secret["file"]).resolve()
        assert path.parent == ROOT / "secrets"
    assert "/secrets/" in (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert "!secrets" not in (ROOT / ".dockerignore").read_text("utf-8")


def test_each_secret_is_mounted() -> None:
    """Where a variable says that a file is, there is one, and the manual makes it; nobody mounts what none names."""
    files = {value for name, value in variables_of_compose(TEXTS["compose"]).items() if name.endswith("_FILE")}
    assert files == {f"/run/secrets/{name}" for name in service()["secrets"]}
    assert set(service()["secrets"]) == compose()["secrets"].keys()
    assert set(service()["secrets"]) == set(re.findall(r"> secrets/([\w-]+)", page("replicas")))
    (volume,), (mount,) = pod()["volumes"], container()["volumeMounts"]
    assert mount["name"] == volume["name"]
    paths = {value for name, value in variables_of_replicas(TEXTS["replicas"]).items() if name.endswith("_FILE")}
    assert {str(Path(path).parent) for path in paths} == {mount["mountPath"]}
    assert {Path(path).name for path in paths} == set(re.findall(r"--from-file=([\w-]+)", page("replicas")))


# What they say of the gateway.


def test_ports_and_probes(tmp_path: Path) -> None:
    """Who asks finds the gateway where it listens, at paths that need no token."""
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert ports == {"http": settings("replicas", tmp_path).port}
    assert f"EXPOSE {ports['http']}\n" in DOCKERFILE
    (outside,) = only(TEXTS["replicas"], "Service")["spec"]["ports"]
    assert outside["targetPort"] in ports
    asked = {name: container()[name]["httpGet"] for name in ("livenessProbe", "readinessProbe")}
    assert {name: probe["path"] for name, probe in asked.items()} == {
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    assert all(probe["path"] in PUBLIC and probe["port"] in ports for probe in asked.values())
    liveness = container()["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] == 60  # gateway/manual/operating.md
    (published,) = service()["ports"]
    first, last, inside = map(int, re.fullmatch(r"127\.0\.0\.1:(\d+)-(\d+):(\d+)", published).groups())
    assert last - first + 1 == service()["deploy"]["replicas"]
    assert inside == settings("compose", tmp_path).port


def test_it_may_finish_what_is_in_flight(tmp_path: Path) -> None:
    """Nothing is killed while it drains; on Kubernetes the wait before that counts as well."""
    grace = int(service()["stop_grace_period"].removesuffix("s"))
    assert grace > settings("compose", tmp_path).drain_s
    by_hand = {
        int(found) for text in (page("install"), DOCKERFILE) for found in re.findall(r"--stop-timeout (\d+) -v", text)
    }
    assert by_hand == {grace}
    waits = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod()["terminationGracePeriodSeconds"] > waits + settings("replicas", tmp_path).drain_s


def test_who_it_runs_as() -> None:
    """The image's user, who can read the secrets' files, with no right beside that."""
    user = int(re.search(r"^USER (\d+):\1$", DOCKERFILE, re.MULTILINE)[1])
    context = pod()["securityContext"]
    assert [context[key] for key in ("runAsUser", "runAsGroup", "fsGroup")] == [user] * 3
    assert f"chown -R {user} secrets" in page("replicas")
    assert (context["runAsNonRoot"], container()["securityContext"]["readOnlyRootFilesystem"]) == (True, True)
    assert (pod()["enableServiceLinks"], pod()["automountServiceAccountToken"]) == (False, False)
    assert (service()["read_only"], service()["cap_drop"]) == (True, ["ALL"])


def test_its_memory(tmp_path: Path) -> None:
    """What is asked for is what was measured, with all that large answers may take beside it."""
    wanted, limits = container()["resources"]["requests"], container()["resources"]["limits"]
    needed = RESIDENT + settings("replicas", tmp_path).memory_bytes
    assert needed <= amount(wanted["memory"]) <= 1.25 * needed
    assert 1.5 * needed <= amount(limits["memory"])
    assert "cpu" not in limits


def test_every_selector_means_these_pods() -> None:
    """A Service, a budget or a spread that selects no pod is right by its schema, and does nothing."""
    labels = deployment()["template"]["metadata"]["labels"]
    selectors = [
        deployment()["selector"]["matchLabels"],
        only(TEXTS["replicas"], "Service")["spec"]["selector"],
        only(TEXTS["replicas"], "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in pod()["topologySpreadConstraints"]),
    ]
    assert selectors == [labels] * 5


def test_one_at_a_time() -> None:
    """An upgrade takes none away before another is ready, and who empties machines takes one."""
    assert deployment()["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert only(TEXTS["replicas"], "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert deployment()["replicas"] > 1
