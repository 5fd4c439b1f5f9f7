"""``config/kubernetes/``: what kubectl makes of base and overlays is right by its schema, and true of this gateway."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.api.auth import PUBLIC
from gateway.config.load import load
from gateway.config.settings import Settings, database_path
from gateway.signature import make_secret
from tests import kustomized
from tests.kustomized import FOLDERS, KUBERNETES, SECRETS
from tests.manifests import REPLICAS, documents, faults, only
from tests.manual import ROOT, page

EACH = pytest.mark.parametrize("which", FOLDERS)
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


class Made(NamedTuple):
    """What kubectl makes of a folder."""

    objects: list[Any]
    pod: dict[str, Any]
    gateway: dict[str, Any]


@pytest.fixture(scope="module")
def rendered() -> dict[str, Made]:
    return {which: made(kustomized.kept(which)) for which in FOLDERS}


def made(text: str) -> Made:
    pod = only(text, "Deployment")["spec"]["template"]["spec"]
    (gateway,) = (one for one in pod["containers"] + pod.get("initContainers", []) if one["name"] == "gateway")
    return Made(documents(text), pod, gateway)


def settings(gateway: dict[str, Any], folder: Path) -> Settings:
    """Load what the image's defaults and a container's variables say together, each secret's file in ``folder``."""
    environ = dict(re.findall(r"\b(GATEWAY_\w+)=(\S+)", re.sub(r"^#.*", "", DOCKERFILE, flags=re.MULTILINE)))
    for variable in gateway["env"]:
        environ[variable["name"]] = variable["value"]
        if variable["name"].endswith("_FILE"):
            path = folder / Path(variable["value"]).name
            path.write_text(make_secret() if "webhook" in path.name else "tok", "utf-8")
            environ[variable["name"]] = str(path)
    return load(environ)


@EACH
def test_what_is_kept_is_of_these_files(which: str) -> None:
    """Else what follows would be said of manifests that nobody applies."""
    assert kustomized.made_of(kustomized.kept(which)) == kustomized.source(), "make reference, where kubectl is"


def test_kubectl_makes_what_is_kept() -> None:
    """Not what somebody wrote there."""
    if (why := kustomized.cannot()) is not None:
        pytest.skip(why)
    assert {which: documents(text) for which, text in kustomized.made().items()} == {
        which: documents(kustomized.kept(which)) for which in FOLDERS
    }


@EACH
def test_each_object_is_what_its_schema_says(rendered: dict[str, Made], which: str) -> None:
    """With no member that there is not, after all patches."""
    assert [fault for one in rendered[which].objects for fault in faults(one)] == []
    assert sum(one["kind"] == "PersistentVolumeClaim" for one in rendered[which].objects) == 1


@EACH
def test_the_gateway_takes_what_is_set(rendered: dict[str, Made], which: str, tmp_path: Path) -> None:
    """With the image's defaults its settings are complete: a file on the volume, and each secret in a file."""
    pod, gateway = rendered[which].pod, rendered[which].gateway
    found = settings(gateway, tmp_path)
    mounts = {mount["name"]: mount["mountPath"] for mount in gateway["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (claimed,) = (name for name, volume in volumes.items() if "persistentVolumeClaim" in volume)
    (secret,) = (name for name, volume in volumes.items() if "secret" in volume)
    assert str(database_path(found.database_url).parent) == mounts[claimed]
    files = {variable["value"] for variable in gateway["env"] if variable["name"].endswith("_FILE")}
    assert {str(Path(path).parent) for path in files} == {mounts[secret]}
    assert {Path(path).name for path in files} <= set(SECRETS)
    assert found.webhook_secret
    claim = volumes[claimed]["persistentVolumeClaim"]["claimName"]
    assert [one["metadata"]["name"] for one in rendered[which].objects if one["kind"] == "PersistentVolumeClaim"] == [
        claim
    ]


@EACH
def test_one_has_the_file(rendered: dict[str, Made], which: str) -> None:
    """Never two at a time."""
    (deployment,) = (one["spec"] for one in rendered[which].objects if one["kind"] == "Deployment")
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}


@EACH
def test_who_it_runs_as(rendered: dict[str, Made], which: str) -> None:
    """The image's user, whose the volume is, with no right beside that."""
    _, pod, gateway = rendered[which]
    user = int(re.search(r"^USER (\d+):\1$", DOCKERFILE, re.MULTILINE)[1])
    context = {**pod["securityContext"], **gateway["securityContext"]}
    assert [context[key] for key in ("runAsUser", "runAsGroup", "fsGroup")] == [user] * 3
    assert (context["runAsNonRoot"], context["readOnlyRootFilesystem"]) == (True, True)
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["enableServiceLinks"] is False
    (secret,) = (volume["secret"] for volume in pod["volumes"] if "secret" in volume)
    assert secret["defaultMode"] == 0o440


@EACH
def test_its_probes_and_its_end(rendered: dict[str, Made], which: str, tmp_path: Path) -> None:
    """Asked where it listens, at paths without a token; with time for a migration, and for what is in flight."""
    _, pod, gateway = rendered[which]
    found = settings(gateway, tmp_path)
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = gateway.get(name)
        if which == "overlays/sidecar":  # on loopback, where the kubelet is not
            assert found.host == "127.0.0.1"
            assert probe is None if name == "readinessProbe" else probe["exec"] == {"command": ["gateway", "health"]}
            continue
        assert found.host == "0.0.0.0"
        assert found.token
        assert probe["httpGet"]["path"] in PUBLIC
        assert {port["name"]: port["containerPort"] for port in gateway["ports"]} == {"http": found.port}
        assert probe["httpGet"]["port"] == "http"
    liveness, startup = gateway["livenessProbe"], gateway["startupProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] == 60  # gateway/manual/operating.md
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300
    waits = gateway.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pod["terminationGracePeriodSeconds"] > waits + found.drain_s


@EACH
def test_its_resources(rendered: dict[str, Made], which: str) -> None:
    """Those of a replica, which were measured."""
    (replica,) = only(REPLICAS.read_text("utf-8"), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert rendered[which].gateway["resources"] == replica["resources"]


def test_the_sidecar_starts_first_and_ends_last(rendered: dict[str, Made]) -> None:
    """As Kubernetes does with an initContainer that always restarts; its app keeps what it had."""
    _, pod, gateway = rendered["overlays/sidecar"]
    assert pod["initContainers"] == [gateway]
    assert gateway["restartPolicy"] == "Always"
    (app,) = pod["containers"]
    (own,) = only((KUBERNETES / "overlays/sidecar/app.yaml").read_text("utf-8"), "Deployment")["spec"]["template"][
        "spec"
    ]["containers"]
    assert app == own
    (allowed,) = (one["value"] for one in gateway["env"] if one["name"] == "GATEWAY_CALLBACK_ALLOW")
    assert allowed == f"127.0.0.1:{app['ports'][0]['containerPort']}"


def test_an_overlay_changes_what_it_says(rendered: dict[str, Made]) -> None:
    """Namespace, image, a variable, and the name of the secret that is made of the files."""
    objects, pod, gateway = rendered["overlays/production"]
    assert {one["metadata"]["namespace"] for one in objects} == {"webhooks"}
    assert gateway["image"] == "registry.example/webhook-bridging-gateway:1"
    assert gateway["env"][-1]["name"] == "GATEWAY_CALLBACK_ALLOW"
    (secret,) = (one for one in objects if one["kind"] == "Secret")
    assert secret["metadata"]["name"] in {volume.get("secret", {}).get("secretName") for volume in pod["volumes"]}
    assert set(secret["data"]) == set(SECRETS)


def test_its_secrets_stay_out_of_the_checkout() -> None:
    """Git passes over the files that the overlay asks for, and so do the wheel and the image."""
    for name in (".gitignore", ".dockerignore"):
        lines = (ROOT / name).read_text("utf-8").splitlines()
        for secret in SECRETS:
            assert f"/config/kubernetes/overlays/*/{secret}" in lines, name


def test_the_manual_makes_the_secrets() -> None:
    """Each file of the overlay's, and each that the sidecar reads."""
    section = page("install").partition("\n## Kubernetes\n")[2]
    assert set(re.findall(r"> ([\w-]+)$", section, re.MULTILINE)) == set(SECRETS)
