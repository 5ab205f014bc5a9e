"""The chart: linted, rendered with every profile, held against the schemas of Kubernetes and of foreign kinds."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.observability.files import RULES

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "genmesh"
TOOLS = ROOT / ".state" / "tools" / "chart"
PROFILES = {
    "default": (),
    "cpu": ("cpu",),
    "gpu": ("gpu",),
    "production": ("production",),
    "gpu-production": ("production", "gpu"),
}
KUBERNETES = "1.34.0"
PARTS = ("gateway", "tokenization", "embedding", "vector-search", "generation", "diffusion", "rag")


def helm(*arguments: str, fails: bool = False) -> str:
    ran = subprocess.run([str(TOOLS / "bin" / "helm"), *arguments], capture_output=True, text=True, check=False)
    assert (ran.returncode != 0) == fails, ran.stdout + ran.stderr
    return ran.stderr if fails else ran.stdout


@cache
def text(profile: str, *settings: str) -> str:
    files = [f"--values={CHART}/values-{name}.yaml" for name in PROFILES[profile]]
    return helm("template", "mesh", str(CHART), "--namespace=ai", *files, *(f"--set-string={s}" for s in settings))


def objects(profile: str, *settings: str) -> list[dict[str, Any]]:
    return [found for found in yaml.safe_load_all(text(profile, *settings)) if found]


def one(found: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (match,) = [o for o in found if o["kind"] == kind and o["metadata"]["name"] == name]
    return match


def pods(found: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for o in found:
        if o["kind"] in ("Deployment", "StatefulSet"):
            yield o["metadata"]["name"], o["spec"]["template"]["spec"]
        elif o["kind"] == "Pod":
            yield o["metadata"]["name"], o["spec"]


@pytest.mark.parametrize("profile", PROFILES)
def test_lint(profile: str) -> None:
    files = [f"--values={CHART}/values-{name}.yaml" for name in PROFILES[profile]]
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), *files)


def strict(schema: Any) -> Any:
    """A custom resource's schema as JSON schema that lets no unknown key pass."""
    if isinstance(schema, dict):
        found = {key: strict(value) for key, value in schema.items()}
        if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
            found.setdefault("additionalProperties", False)
        if schema.get("x-kubernetes-int-or-string"):
            found.pop("type", None)
            found["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        return found
    return [strict(value) for value in schema] if isinstance(schema, list) else schema


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strict schemas: Kubernetes' own from a package, of foreign kinds from their definitions."""
    folder = tmp_path_factory.mktemp("schemas")
    package = importlib.util.find_spec("kubernetes_validate")
    assert package
    assert package.origin
    for file in (Path(package.origin).parent / "kubernetes-json-schema" / f"v{KUBERNETES}-local-strict").glob("*.json"):
        rooted = file.read_text().replace('"/api/_definitions.json#', f'"file://{folder}/_definitions.json#')
        (folder / file.name).write_text(rooted)
    for file in (TOOLS / "crds").glob("*.yaml"):
        crd = yaml.safe_load(file.read_text())["spec"]
        for version in crd["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            (folder / f"{crd['names']['kind'].lower()}_{version['name']}.json").write_text(json.dumps(schema))
    return folder


@pytest.mark.parametrize("profile", PROFILES)
def test_every_object_is_valid(profile: str, schemas: Path) -> None:
    ran = subprocess.run(
        [str(TOOLS / "bin" / "kubeconform"), "-strict", "-summary", "-output=json", f"-kubernetes-version={KUBERNETES}",
         f"-schema-location={schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json",
         f"-schema-location={schemas}/{{{{.ResourceKind}}}}_{{{{.ResourceAPIVersion}}}}.json"],
        input=text(profile), capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = json.loads(ran.stdout)
    assert ran.returncode == 0, found
    assert found["summary"]["valid"] == len(objects(profile)) > 20
    assert found["summary"]["skipped"] == 0


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("trion.replicas=3", "additional properties 'trion' not allowed"),
        ("services.rag.replica=3", "at '/services/rag': additional properties 'replica' not allowed"),
        ("triton.replicas=many", "at '/triton/replicas': got string, want integer"),
        ("services.gateway.serviceType=Cluster", "at '/services/gateway/serviceType'"),
        ("autoscaler=kedda", "at '/autoscaler'"),
        ("milvus.enabled=false", "milvus.url is needed where milvus.enabled is false"),
    ],
)
def test_a_wrong_value_is_refused_with_a_sentence(setting: str, sentence: str) -> None:
    assert sentence in helm("template", "mesh", str(CHART), f"--set={setting}", fails=True)


def test_every_value_is_in_the_schema_and_explained() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def check(values: Any, found: dict[str, Any], where: str) -> None:
        if isinstance(values, dict) and found.get("additionalProperties") is False:
            assert set(values) <= set(found["properties"]), where
            for key, value in values.items():
                check(value, found["properties"][key], f"{where}.{key}")

    check(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")


@pytest.mark.parametrize("profile", PROFILES)
def test_pods_hold_the_restricted_standard(profile: str) -> None:
    for name, pod in pods(objects(profile)):
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        for container in pod["containers"] + pod.get("initContainers", []):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


def test_services_know_each_other_by_balanced_addresses() -> None:
    found = objects("default")
    services = {o["metadata"]["name"]: o["spec"] for o in found if o["kind"] == "Service"}
    asked = 0
    for part in PARTS:
        pod = one(found, "Deployment", f"mesh-{part}")["spec"]["template"]["spec"]
        for variable in pod["containers"][0]["env"]:
            address = variable.get("value", "")
            if address.startswith("dns:///"):
                name, namespace, rest = address.removeprefix("dns:///").split(".")
                assert namespace == "ai"
                port = int(rest.partition(":")[2])
                assert services[name]["clusterIP"] == "None"
                assert port in [p["port"] for p in services[name]["ports"]]
                asked += 1
    assert asked == 6 + 3 + 4


@pytest.mark.parametrize("profile", ["default", "production"])
def test_settings_are_those_that_the_services_know(profile: str) -> None:
    from importlib import import_module

    for part in PARTS:
        settings = import_module(f"services.{part.replace('-', '_')}.settings").Settings
        pod = one(objects(profile), "Deployment", f"mesh-{part}")["spec"]["template"]["spec"]
        given = {
            v["name"].removeprefix("GENMESH_").lower()
            for v in pod["containers"][0]["env"]
            if v["name"].startswith("GENMESH_")
        }
        assert given <= set(settings.model_fields), part
        assert {name for name, f in settings.model_fields.items() if f.is_required()} <= given, part


def test_gpus_are_never_needed_twice_in_an_upgrade() -> None:
    triton = one(objects("gpu"), "Deployment", "mesh-triton")["spec"]
    assert triton["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": "10%"}
    container = triton["template"]["spec"]["containers"][0]
    assert (
        container["resources"]["limits"]["nvidia.com/gpu"] == container["resources"]["requests"]["nvidia.com/gpu"] == 1
    )


def test_who_may_query_prometheus() -> None:
    """Nobody unless it is said: the default denies it to what scales on it, too."""
    policies = [o["metadata"]["name"] for o in objects("cpu") if o["kind"] == "NetworkPolicy"]
    assert "mesh-prometheus" not in policies
    peer = "networkPolicies.prometheusFrom[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name=keda"
    policy = one(objects("cpu", peer), "NetworkPolicy", "mesh-prometheus")["spec"]
    assert policy["ingress"] == [
        {
            "ports": [{"port": 9090}],
            "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}],
        }
    ]


def test_a_budget_may_be_a_share_of_the_pods() -> None:
    found = objects("production", "triton.minAvailable=90%")
    assert one(found, "PodDisruptionBudget", "mesh-triton")["spec"]["minAvailable"] == "90%"


def test_what_is_outside_is_not_built_in() -> None:
    names = {o["metadata"]["name"] for o in objects("production") if o["kind"] != "NetworkPolicy"}
    assert not names & {"mesh-redis", "mesh-milvus", "mesh-prometheus", "mesh-identity", "mesh-api-keys"}
    kinds = {o["kind"] for o in objects("production")}
    assert {
        "ServiceMonitor",
        "PrometheusRule",
        "ScaledObject",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
    } <= kinds


def test_the_charts_prometheus_has_the_rules_and_every_part() -> None:
    config = one(objects("default"), "ConfigMap", "mesh-prometheus")["data"]
    assert yaml.safe_load(config["rules.yaml"]) == yaml.safe_load(RULES.read_text())
    jobs = {job["job_name"] for job in yaml.safe_load(config["prometheus.yaml"])["scrape_configs"]}
    assert jobs == {"triton", *(f"genmesh-{part}" for part in PARTS)}


def test_a_part_without_replicas_to_spare_has_no_budget_that_blocks_a_drain() -> None:
    assert not [o for o in objects("default") if o["kind"] == "PodDisruptionBudget"]
    assert len([o for o in objects("production") if o["kind"] == "PodDisruptionBudget"]) == len(PARTS) + 1


def test_every_image_follows_the_registry_and_the_tags() -> None:
    found = objects("default", "imageRegistry=registry.example:5000", "image.tag=7", "triton.image.tag=8")
    images = {c["image"] for _, pod in pods(found) for c in pod["containers"] + pod.get("initContainers", [])}
    assert all(image.startswith("registry.example:5000/") for image in images)
    assert {"registry.example:5000/genmesh/services:7", "registry.example:5000/genmesh/triton-cpu:8"} <= images


def test_tls_needs_a_probe_that_can_speak_to_it() -> None:
    pod = one(objects("production"), "Deployment", "mesh-gateway")["spec"]["template"]["spec"]
    probe = pod["containers"][0]["readinessProbe"]
    assert probe["httpGet"] == {"path": "/healthz", "port": "status"}
    assert {"name": "tls", "secret": {"secretName": "genmesh-tls"}} in pod["volumes"]
    plain = one(objects("default"), "Deployment", "mesh-gateway")["spec"]["template"]["spec"]["containers"][0]
    assert plain["readinessProbe"]["grpc"] == {"port": 8080, "service": "itself"}
    refused = helm(
        "template", "mesh", str(CHART), "--set=services.gateway.tlsSecret=x,services.gateway.statusPort=0", fails=True
    )
    assert "statusPort must be on" in refused
