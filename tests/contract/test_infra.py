"""What is deployed: the overlays build, their objects are valid and locked down, and all that they name exists."""

import copy
import functools
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import psycopg
import pytest
import yaml

import servers

pytest_plugins = ("s3_server",)

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "infra" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
SCHEMAS = "1.32"  # of the Kubernetes release that objects are checked against; kubernetes-validate brings them along
GUIDE = (ROOT / "docs" / "how-to" / "cluster.md").read_text("utf-8")
COMPOSE = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text("utf-8"))
SERVICES = COMPOSE["services"]
EXAMPLE = yaml.safe_load((ROOT / "infra" / "sites" / "example.yaml").read_text("utf-8"))
TELLING = re.compile(r"PASSWORD|SECRET|TOKEN|_KEY|STORE_URI|STORAGE$")

Object = dict[str, Any]
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@functools.cache
def _built(overlay: str) -> str:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is missing (Debian's kubernetes-client)")
    command = ["kubectl", "kustomize", str(KUBERNETES / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(overlay: str, *kinds: str) -> list[Object]:
    return [item for item in yaml.safe_load_all(_built(overlay)) if item and (not kinds or item["kind"] in kinds)]


def pods(overlay: str) -> Iterator[tuple[Object, Object]]:
    """Each workload with the pod that it makes."""
    for item in objects(overlay, "Deployment", "StatefulSet", "DaemonSet", "Job"):
        yield item, item["spec"]["template"]["spec"]


def containers(overlay: str) -> Iterator[tuple[Object, Object, Object]]:
    for item, pod in pods(overlay):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield item, pod, container


def problems(item: Object) -> str:
    try:
        kubernetes_validate.validate(item, SCHEMAS, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error)
    return ""


# ---------------------------------------------------------------------------------------- the schema


@every_overlay
def test_an_overlay_builds_into_valid_objects(overlay: str) -> None:
    found = [f"{item['kind']} {item['metadata']['name']}: {problems(item)}" for item in objects(overlay)]
    assert len(found) > 20
    assert [line for line in found if not line.endswith(": ")] == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["spec", "replicas"], "two"),
        (["spec", "template", "spec", "containers", 0, "resource"], {}),  # a key that does not exist
        (["spec", "template", "spec", "containers", 0, "ports", 0, "containerPort"], None),
        (["spec", "selector"], "app=mlflow"),
    ],
)
def test_a_broken_object_is_noticed(place: list[Any], value: Any) -> None:
    broken = copy.deepcopy(objects(OVERLAYS[0], "Deployment")[0])
    *way, last = place
    functools.reduce(lambda tree, key: tree[key], way, broken)[last] = value
    assert problems(broken)


# ------------------------------------------------------------------------------------------ the pods


@every_overlay
def test_pods_and_containers_are_locked_down(overlay: str) -> None:
    for item, pod, container in containers(overlay):
        name = f"{item['metadata']['name']}/{container['name']}"
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False, name
        assert own["readOnlyRootFilesystem"] is True, name
        assert own["capabilities"] == {"drop": ["ALL"]}, name
        assert "privileged" not in own, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name


@every_overlay
def test_containers_have_limits_and_those_that_stay_have_probes(overlay: str) -> None:
    for item, pod, container in containers(overlay):
        name = f"{item['metadata']['name']}/{container['name']}"
        for part in ("requests", "limits"):
            assert container["resources"][part].keys() == {"cpu", "memory"}, name
        if container in pod["containers"]:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), name


@every_overlay
def test_what_is_written_to_is_mounted(overlay: str) -> None:
    for item, pod, container in containers(overlay):
        claims = {claim["metadata"]["name"] for claim in item["spec"].get("volumeClaimTemplates", [])}
        volumes = {volume["name"] for volume in pod["volumes"]} | claims
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) <= volumes
        assert "/tmp" in mounts


@every_overlay
def test_images_have_a_digest_or_a_tag_that_means_one_image(overlay: str) -> None:
    for _, _, container in containers(overlay):
        image = container["image"]
        assert re.search(r"@sha256:[0-9a-f]{64}$|/cytoloop:[\w.-]+$", image), image
        assert not image.endswith(":latest")


def test_compose_and_kubernetes_run_the_same_servers() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "base/servers/kustomization.yaml").read_text("utf-8"))
    digests = {entry["newName"]: entry["digest"] for entry in kustomization["images"]}
    for name in ("postgres", "objects"):
        tagged, _, digest = SERVICES[name]["image"].partition("@")
        assert digests[tagged.rpartition(":")[0]] == digest
    store = next(c for _, _, c in containers("dev") if c["name"] == "objects")
    assert store["command"] == ["weed", "-logtostderr=true", *SERVICES["objects"]["command"]]
    server = next(c for _, _, c in containers("dev") if c["name"] == "mlflow")
    assert server["command"] == SERVICES["mlflow"]["command"]


# ---------------------------------------------------------------------------------- secrets and names


@every_overlay
def test_no_secret_and_no_value_of_one_is_written_down(overlay: str) -> None:
    assert objects(overlay, "Secret") == []
    for item in objects(overlay, "ConfigMap"):
        assert not [key for key in item["data"] if TELLING.search(key)]
    for _, _, container in containers(overlay):
        assert not [entry["name"] for entry in container.get("env", []) if "value" in entry and is_telling(entry)]


def is_telling(entry: dict[str, str]) -> bool:
    return bool(TELLING.search(entry["name"])) and not entry["value"].startswith("s3://")


def secrets_of(overlay: str) -> set[tuple[str, str, str]]:
    """(namespace, secret, key) that containers and the example's steps refer to."""
    found = {
        (item["metadata"]["namespace"], entry["valueFrom"]["secretKeyRef"]["name"], entry["name"])
        for item, _, container in containers(overlay)
        for entry in container.get("env", [])
        if "valueFrom" in entry
    }
    steps = {
        ("kubeflow", name, key)
        for step in EXAMPLE["steps"].values()
        for name, keys in step.get("secrets", {}).items()
        for key in keys
    }
    return found | steps


@every_overlay
def test_the_guide_creates_every_secret_with_its_keys_in_its_namespace(overlay: str) -> None:
    commands = re.sub(r"\\\n\s*", "", GUIDE).splitlines()
    for namespace, name, key in sorted(secrets_of(overlay)):
        wanted = (f"create secret generic {name} ", f"--namespace {namespace} ", f"--from-literal={key}=")
        assert any(all(part in f"{line} " for part in wanted) for line in commands), (namespace, name, key)


@every_overlay
def test_services_have_pods_and_addresses_have_services(overlay: str) -> None:
    ports: dict[str, int] = {}
    for service in objects(overlay, "Service"):
        selector, port = service["spec"]["selector"], service["spec"]["ports"][0]
        behind = [
            pod
            for item, pod in pods(overlay)
            if selector.items() <= item["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert len(behind) == 1
        named = {p["name"]: p["containerPort"] for p in behind[0]["containers"][0]["ports"]}
        assert named[port["targetPort"]] == port["port"]
        ports[service["metadata"]["name"]] = port["port"]
    addresses = [value for value in values(overlay) if value.startswith("http://")]
    assert len(addresses) >= 4
    for address in addresses:
        parts = urlsplit(address)
        assert parts.port == ports[str(parts.hostname).split(".")[0]], address


def values(overlay: str) -> list[str]:
    """All plain values in the environments of pods."""
    maps = [value for item in objects(overlay, "ConfigMap") for value in item["data"].values()]
    return maps + [entry["value"] for _, _, c in containers(overlay) for entry in c.get("env", []) if "value" in entry]


@every_overlay
def test_steps_find_what_the_example_site_names(overlay: str) -> None:
    there = {item["metadata"]["name"]: item for item in objects(overlay) if item["metadata"].get("namespace")}
    places = [EXAMPLE["defaults"], *EXAMPLE["steps"].values()]
    for name, keys in [pair for place in places for pair in place.get("config_maps", {}).items()]:
        assert set(keys) <= there[name]["data"].keys()
        assert there[name]["metadata"]["namespace"] == "kubeflow"
    for claim in {place["work_claim"] for place in places if "work_claim" in place}:
        assert there[claim]["kind"] == "PersistentVolumeClaim"


# ---------------------------------------------------------------------------------- rights and network


@every_overlay
def test_rights_are_few_and_named(overlay: str) -> None:
    assert objects(overlay, "ClusterRole", "ClusterRoleBinding") == []
    roles = {item["metadata"]["name"]: item for item in objects(overlay, "Role")}
    for role in roles.values():
        for rule in role["rules"]:
            assert not {"*", "impersonate", "escalate", "bind"} & set(rule["verbs"] + rule["resources"])
            if {"secrets", "configmaps"} & set(rule["resources"]):
                assert rule["resourceNames"]
    accounts = {item["metadata"]["name"]: item for item in objects(overlay, "ServiceAccount")}
    for binding in objects(overlay, "RoleBinding"):
        assert binding["roleRef"]["name"] in roles
        for subject in binding["subjects"]:
            assert accounts[subject["name"]]["metadata"]["namespace"] == subject["namespace"]
    for _, pod in pods(overlay):
        assert accounts[pod["serviceAccountName"]]["automountServiceAccountToken"] is False


def selects(policy: Object, labels: dict[str, str]) -> bool:
    return policy["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items()


@every_overlay
def test_nothing_is_open_but_each_service_to_its_users(overlay: str) -> None:
    policies = [p for p in objects(overlay, "NetworkPolicy") if p["metadata"]["namespace"] == "cytoloop"]
    closed = [p for p in policies if p["spec"]["podSelector"] == {} and "ingress" not in p["spec"]]
    assert {kind for p in closed for kind in p["spec"]["policyTypes"]} == {"Ingress", "Egress"}
    for service in objects(overlay, "Service"):
        port = {"port": service["spec"]["ports"][0]["port"], "protocol": "TCP"}
        rules = [r for p in policies if selects(p, service["spec"]["selector"]) for r in p["spec"].get("ingress", [])]
        assert [rule["ports"] for rule in rules] == [[port]]
        assert all(peer.get("podSelector", {}).get("matchLabels") for rule in rules for peer in rule["from"])
        assert any("namespaceSelector" in peer for rule in rules for peer in rule["from"])


@every_overlay
def test_what_a_server_asks_for_is_open_at_both_ends(overlay: str) -> None:
    policies = objects(overlay, "NetworkPolicy")
    way_out = {
        (port["port"], tuple(to["podSelector"]["matchLabels"].items()))
        for policy in policies
        if policy["metadata"]["name"] == "mlflow"
        for rule in policy["spec"]["egress"]
        for to in rule["to"]
        for port in rule["ports"]
    }
    asked = {s["metadata"]["name"]: s["spec"] for s in objects(overlay, "Service") if s["metadata"]["name"] != "mlflow"}
    assert way_out == {(spec["ports"][0]["port"], tuple(spec["selector"].items())) for spec in asked.values()}


@every_overlay
def test_steps_reach_the_servers_and_answer_nobody(overlay: str) -> None:
    (policy,) = [p["spec"] for p in objects(overlay, "NetworkPolicy") if p["metadata"]["namespace"] == "kubeflow"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy
    servers = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "cytoloop"}}}
    (rule,) = [rule for rule in policy["egress"] if rule.get("to") == [servers]]
    assert {p["port"] for p in rule["ports"]} == {s["spec"]["ports"][0]["port"] for s in objects(overlay, "Service")}


# ------------------------------------------------------------------------------------------- compose


def test_compose_names_only_what_it_has() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", {})) <= SERVICES.keys(), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / "infra" / source).exists(), volume
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_compose_is_locked_down_and_holds_no_password() -> None:
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("read_only") or name == "cytoloop", name  # a step writes to the project's folder
        for key, value in service.get("environment", {}).items():
            if TELLING.search(key):
                assert "${" in value, f"{name}: {key}"


@pytest.mark.parametrize("name", [name for name in SERVICES if "build" in SERVICES[name]])
def test_compose_builds_the_project_s_image(name: str) -> None:
    build = SERVICES[name]["build"]
    assert (ROOT / "infra" / build["context"] / build["dockerfile"]).is_file()


# --------------------------------------------------------------------------------------- preparation


postgres = servers.postgres


@pytest.fixture
def prepare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare", KUBERNETES / "base/servers/prepare.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_buckets_are_made_and_kept(prepare: ModuleType, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.create_bucket(Bucket="mlflow")
    s3.put_object(Bucket="mlflow", Key="kept", Body=b"1")
    monkeypatch.setenv("CYTOLOOP_BUCKETS", "mlflow cytoloop")
    for _ in range(2):
        prepare.when_up(prepare.make_buckets)
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["mlflow", "cytoloop"]
    assert s3.list_objects_v2(Bucket="mlflow")["KeyCount"] == 1


def test_databases_have_an_owner_each_and_keep_what_they_hold(
    prepare: ModuleType, postgres: servers.Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"HOST": "127.0.0.1", "PORT": str(postgres.port), "USER": "tester", "PASSWORD": "any"}
    for name, value in settings.items():
        monkeypatch.setenv(f"POSTGRES_{name}", value)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql+psycopg://runs:first@host:5432/runs")
    monkeypatch.setenv("CYTOLOOP_STUDY_STORAGE", "postgresql+psycopg://study:p%40ss'word@host:5432/study")
    prepare.when_up(prepare.make_databases)
    with connected(postgres, "runs", "runs") as connection:
        connection.execute("create table kept (number int)")
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql+psycopg://runs:second@host:5432/runs")
    before = password(postgres, "runs")
    prepare.when_up(prepare.make_databases)
    assert password(postgres, "runs") != before
    with connected(postgres, "runs", "runs") as connection:
        assert connection.execute("select count(*) from kept").fetchone() == (0,)
    with pytest.raises(psycopg.OperationalError, match="CONNECT"):
        connected(postgres, "study", "runs")


def connected(postgres: servers.Postgres, role: str, database: str) -> psycopg.Connection:
    return psycopg.connect(host="127.0.0.1", port=postgres.port, user=role, dbname=database, autocommit=True)


def password(postgres: servers.Postgres, role: str) -> str:
    with connected(postgres, "tester", "postgres") as connection:
        (found,) = connection.execute("select rolpassword from pg_authid where rolname = %s", [role]).fetchone() or (
            "",
        )
    assert found.startswith("SCRAM-SHA-256$")
    return str(found)


def test_a_server_that_never_comes_up_ends_in_one_line(
    prepare: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSTGRES_HOST", "127.0.0.1")
    monkeypatch.setenv("POSTGRES_PORT", "1")
    monkeypatch.setenv("POSTGRES_PASSWORD", "any")
    monkeypatch.setattr(prepare, "PATIENCE", 0)
    with pytest.raises(SystemExit, match="make_databases: connection failed"):
        prepare.when_up(prepare.make_databases)


def test_a_malformed_address_is_refused(prepare: ModuleType) -> None:
    with pytest.raises(SystemExit, match="allowed is postgresql"):
        prepare.make_database(None, "CYTOLOOP_STUDY_STORAGE", "postgresql://host/database")


# ----------------------------------------------------------------------------------------- the guide


def test_the_guide_s_costs_are_those_of_the_example_site() -> None:
    from cytoloop.door import STEPS

    for step in STEPS:
        place = EXAMPLE["defaults"] | EXAMPLE["steps"].get(step, {})
        pods = EXAMPLE["tune_workers"] + 1 if step == "tune" else 1
        gpus = place.get("accelerator", {}).get("count", 0)
        asked = (pods, place["cpu_request"], place["memory_request"], gpus, place["timeout"] // 60)
        assert f"| {step} | {' | '.join(map(str, asked))} |" in GUIDE
