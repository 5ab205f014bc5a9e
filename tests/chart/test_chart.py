"""The chart: linted, rendered with every profile, held against the schemas of Kubernetes and of foreign kinds."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.observability.files import RULES
from services.runtime.metrics import SERVICES

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
        if o["kind"] in ("Deployment", "StatefulSet", "Job"):
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

    text = (CHART / "values.yaml").read_text()
    check(yaml.safe_load(text), schema, "")
    lines = text.splitlines()
    bare = [line for above, line in pairwise(lines) if re.match(r" *\w+:", line) and not re.match(r" *#", above)]
    # What these are is Kubernetes' own; `resources` above them says whose.
    assert {line.split(":")[0].strip() for line in bare} == {"requests", "limits"}


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


def test_gpus_stand_beside_whatever_else_is_asked_for() -> None:
    changed = "triton.resources.limits.memory=null,triton.gpus=2"
    found = list(yaml.safe_load_all(helm("template", "mesh", str(CHART), "--set", changed)))
    container = one(found, "Deployment", "mesh-triton")["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert container["resources"]["requests"]["nvidia.com/gpu"] == 2


def test_pods_name_the_secrets_of_registries() -> None:
    found = [pod for _, pod in pods(objects("default", "imagePullSecrets={one,two}"))]
    assert found
    assert all(pod["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}] for pod in found)


def test_who_is_let_in_to_the_gateway_does_not_shut_out_the_charts_own_test() -> None:
    found = objects("default", "networkPolicies.gatewayFrom[0].namespaceSelector.matchLabels.team=web")
    (rule,) = one(found, "NetworkPolicy", "mesh-gateway")["spec"]["ingress"]
    own = one(found, "Pod", "mesh-test")["metadata"]["labels"]
    ours, theirs = (peer for peer in rule["from"])
    assert ours["podSelector"]["matchLabels"].items() <= own.items()
    assert theirs == {"namespaceSelector": {"matchLabels": {"team": "web"}}}


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
    found = objects("production", "triton.minAvailable=60%")
    assert one(found, "PodDisruptionBudget", "mesh-triton")["spec"]["minAvailable"] == "60%"


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
    assert jobs == {"triton", "redis", "milvus", "prometheus", *(f"genmesh-{part}" for part in PARTS)}


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


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("defaults.autoscaling.enabled=true,defaults.autoscaling.maxReplicas=2,defaults.autoscaling.minReplicas=3",
         "maxReplicas (2) is less than minReplicas (3)"),
        ("services.rag.replicas=2,services.rag.minAvailable=2", "services.rag.minAvailable (2) must be less than its 2 replicas"),
        ("triton.replicas=3,triton.minAvailable=3", "triton.minAvailable (3) must be less than its 3 replicas"),
        ("triton.maxSurge=0", "triton.maxSurge and triton.maxUnavailable are both 0"),
        ("services.gateway.statusPort=9100", "statusPort 9100 is taken"),
        ("redis.url=redis://elsewhere:6379/0", "redis.enabled must be false"),
        ("milvus.existingSecret=x", "milvus.enabled must be false"),
        ("prometheus.url=http://elsewhere:9090", "prometheus.enabled must be false"),
        ("services.rag.env.GENMESH_PORT=x", "services.rag.env.GENMESH_PORT is the chart's to set"),
        ("services.rag.env.GENMESH_CANDIDATE=x", "services.rag.env.GENMESH_CANDIDATE: there is no such setting"),
        ("defaults.env.GENMESH_CANDIDATES=x", ".env.GENMESH_CANDIDATES: there is no such setting"),
        ("services.rag.env.OTEL_EXPORTER_OTLP_ENDPOINT=x,otlpEndpoint=http://y:4317", "from otlpEndpoint"),
        ("triton.replicas=3,triton.minAvailable=90%", "triton.minAvailable (90%) is all of its 3 replicas"),
        ("redis.maxMemory=lots", "redis/maxMemory"),
        ("milvus.storage=10", "milvus/storage"),
        ("prometheus.retention=long", "prometheus/retention"),
        ("image.repository=", "image/repository"),
        ("imageRegistry=https://registry.example.org", "imageRegistry"),
        ("triton.resources.requests.cpus=1", "cpus"),
        ("defaults.tolerations[0].kee=x", "kee"),
        ("networkPolicies.gatewayFrom[0].podSelectors.a=b", "podSelectors"),
        ("apiKeys.tenants={a,a}", "tenants"),
        ("triton.startupSeconds=0", "startupSeconds"),
        ("triton.maxUnavailable=many", "maxUnavailable"),
    ],
)  # fmt: skip
def test_values_that_contradict_one_another_are_refused_with_a_sentence(settings: str, sentence: str) -> None:
    assert sentence in helm("template", "mesh", str(CHART), f"--set={settings}", fails=True)


@pytest.mark.parametrize("name", ["a" * 41, "1st", "a.b"])
def test_names_that_objects_could_not_have_are_refused(name: str) -> None:
    assert "must have at most 40 characters" in helm("template", name, str(CHART), fails=True)


def test_no_revision_holds_a_key() -> None:
    """A rollback would bring it back."""
    found = objects("default")
    for name in ("mesh-identity", "mesh-api-keys"):
        assert one(found, "Secret", name)["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"


def test_pods_may_call_only_what_they_need() -> None:
    """Names, their own release, and what lies outside where a value says so."""

    def open_to_all(*settings: str) -> set[str]:
        policies = [
            o
            for o in objects("default", *settings)
            if o["kind"] == "NetworkPolicy" and {} in o["spec"].get("egress", [])
        ]
        return {policy["metadata"]["name"] for policy in policies}

    rule = one(objects("default"), "NetworkPolicy", "mesh-default-deny")["spec"]
    assert rule["policyTypes"] == ["Ingress", "Egress"]
    assert {port["port"] for to in rule["egress"] for port in to.get("ports", ())} == {53, 5353}
    assert open_to_all() == set()
    everything = helm(
        "template", "mesh", str(CHART), "--set=redis.enabled=false,redis.url=redis://r:6379/0,milvus.enabled=false,milvus.url=http://m:1",
        "--show-only=templates/networkpolicies.yaml",
    )  # fmt: skip
    outward = {
        o["metadata"]["name"]: o["spec"] for o in yaml.safe_load_all(everything) if {} in o["spec"].get("egress", [])
    }
    (policy,) = outward.values()
    assert set(policy["podSelector"]["matchExpressions"][0]["values"]) == {"tokenization", "embedding", "vector-search"}
    (name,) = open_to_all("otlpEndpoint=http://collector:4317")
    assert name == "mesh-outward"


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_tritons_own_spans(profile: str) -> None:
    """Both images take Triton's flags; the pod may then reach the collector."""
    found = objects(profile, "triton.otlpUrl=http://collector:4318/v1/traces")
    (container,) = one(found, "Deployment", "mesh-triton")["spec"]["template"]["spec"]["containers"]
    assert {
        "--trace-config=mode=opentelemetry",
        "--trace-config=opentelemetry,url=http://collector:4318/v1/traces",
    } < set(container["args"])
    policy = one(found, "NetworkPolicy", "mesh-outward")["spec"]
    assert policy["podSelector"]["matchExpressions"][0]["values"] == ["triton"]
    (plain,) = one(objects(profile), "Deployment", "mesh-triton")["spec"]["template"]["spec"]["containers"]
    assert not [argument for argument in plain["args"] if "trace" in argument]


def test_every_setting_of_every_service_is_the_charts_or_can_be_given(tmp_path: Path) -> None:
    given: dict[str, dict[str, dict[str, str]]] = {}
    taken = (CHART / "templates" / "checks.yaml").read_text().partition("$taken := list")[2].partition("}}")[0]
    for name in SERVICES:
        fields = importlib.import_module(f"services.{name}.settings").Settings.model_fields
        head, *rest = name.split("_")
        key = head + "".join(word.title() for word in rest)
        given[key] = {"env": {f"GENMESH_{f.upper()}": "1" for f in fields if f'"{f.upper()}"' not in taken}}
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"services": given}))
    found = list(yaml.safe_load_all(helm("template", "mesh", str(CHART), f"--values={values}")))
    (container,) = one(found, "Deployment", "mesh-rag")["spec"]["template"]["spec"]["containers"]
    assert {"name": "GENMESH_CANDIDATES", "value": "1"} in container["env"]


@pytest.mark.parametrize(("outside", "seals"), [(False, None), (True, "0")])
def test_a_milvus_cluster_seals_by_itself(outside: bool, seals: str | None) -> None:
    changes = ["--set=milvus.enabled=false,milvus.url=http://m:1"] if outside else []
    found = list(yaml.safe_load_all(helm("template", "mesh", str(CHART), *changes)))
    (container,) = one(found, "Deployment", "mesh-vector-search")["spec"]["template"]["spec"]["containers"]
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert env.get("GENMESH_FLUSH_AFTER_SECONDS") == seals
    assert env.get("GENMESH_MILVUS_PATIENCE_SECONDS") == (None if outside else "25")


@pytest.mark.parametrize("changes", [(), ("services.gateway.tlsSecret=cert",)])
def test_a_service_that_does_not_answer_is_restarted(changes: tuple[str, ...]) -> None:
    found = objects("default", *changes)
    for part in PARTS:
        pod = one(found, "Deployment", f"mesh-{part}")["spec"]["template"]["spec"]
        probes = [pod["containers"][0][f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
        speaks = [{key: probe.get(key) for key in ("grpc", "httpGet")} for probe in probes]
        assert speaks[0] == speaks[1] == speaks[2] != {"grpc": None, "httpGet": None}
        assert probes[2]["periodSeconds"] * probes[2]["failureThreshold"] == 60


def test_the_images_are_tried_before_anything_changes() -> None:
    job = one(objects("default"), "Job", "mesh-preflight")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    services, models = job["spec"]["template"]["spec"]["containers"]
    assert services["image"] == "genmesh/services:0.1.0"
    assert models["image"] == "genmesh/triton-cpu:0.1.0"
    pod = one(objects("default", "triton.modelsClaim=models"), "Job", "mesh-preflight")["spec"]["template"]["spec"]
    assert pod["containers"][1]["image"] == "genmesh/services:0.1.0"
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "models"
    on_gpus = one(objects("gpu"), "Job", "mesh-preflight")["spec"]["template"]["spec"]
    assert on_gpus["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert "preflight" not in helm("template", "mesh", str(CHART), "--set=preflight.enabled=false")


def test_services_settings_are_tried_before_anything_changes() -> None:
    given = ("services.vectorSearch.env.GENMESH_FLUSH_AFTER_SECONDS=2", "defaults.env.GENMESH_MAX_MESSAGE_BYTES=4096")
    services, _ = one(objects("default", *given), "Job", "mesh-preflight")["spec"]["template"]["spec"]["containers"]
    (variable,) = services["env"]
    tried = json.loads(variable["value"])
    assert set(tried) == set(SERVICES)
    assert tried["rag"] == {"GENMESH_MAX_MESSAGE_BYTES": "4096"}
    assert tried["vector_search"] == {"GENMESH_MAX_MESSAGE_BYTES": "4096", "GENMESH_FLUSH_AFTER_SECONDS": "2"}


def test_the_operator_finds_the_release_by_its_labels_and_the_rules_find_its_jobs() -> None:
    found = objects("production", "prometheus.operatorLabels.release=kube-prometheus-stack")
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert one(found, kind, "mesh")["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    (endpoint,) = one(found, "ServiceMonitor", "mesh")["spec"]["endpoints"]

    def job(component: str) -> str:
        found = ""
        for rule in endpoint["relabelings"]:
            if match := re.fullmatch(rule.get("regex", "(.*)"), component):
                found = rule["replacement"].replace("$1", match[1])
        return found

    scraped = yaml.safe_load(one(objects("default"), "ConfigMap", "mesh-prometheus")["data"]["prometheus.yaml"])
    jobs = {entry["job_name"] for entry in scraped["scrape_configs"]} - {"prometheus"}
    assert {job(part) for part in (*PARTS, "triton", "redis", "milvus")} == jobs
    policy = one(found, "NetworkPolicy", "mesh-metrics")["spec"]["ingress"][0]["from"]
    assert [peer["podSelector"]["matchLabels"] for peer in policy] == [{"app.kubernetes.io/name": "prometheus"}]
    beside = helm(
        "template", "mesh", str(CHART), "--set=prometheus.operator=true", "--show-only=templates/networkpolicies.yaml"
    )
    both = one(list(yaml.safe_load_all(beside)), "NetworkPolicy", "mesh-metrics")["spec"]["ingress"][0]["from"]
    assert len(both) == 2


def test_the_status_page_is_no_part_of_the_entrance() -> None:
    found = objects("default", "services.gateway.serviceType=LoadBalancer")
    assert [port["name"] for port in one(found, "Service", "mesh")["spec"]["ports"]] == ["grpc"]
    assert "status" in [port["name"] for port in one(found, "Service", "mesh-gateway")["spec"]["ports"]]


def test_the_charts_test_trusts_the_gateways_authority() -> None:
    pod = one(objects("production"), "Pod", "mesh-test")["spec"]
    (volume,) = pod["volumes"]
    assert volume["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]  # never the key
    assert {"name": "GENMESH_CA_FILE", "value": "/tls/ca.crt"} in pod["containers"][0]["env"]
    assert "volumes" not in one(objects("default"), "Pod", "mesh-test")["spec"]


def test_no_grace_before_the_end_is_no_hook() -> None:
    (container,) = one(objects("default"), "Deployment", "mesh-triton")["spec"]["template"]["spec"]["containers"]
    assert container["lifecycle"]["preStop"] == {"sleep": {"seconds": 60}}
    rendered = helm(
        "template", "mesh", str(CHART), "--set=triton.lameDuckSeconds=0", "--show-only=templates/triton.yaml"
    )
    assert "preStop:" not in rendered


def test_an_image_may_be_named_by_its_digest() -> None:
    found = objects("default", f"image.tag=sha256:{'0' * 64}")
    containers = one(found, "Deployment", "mesh-rag")["spec"]["template"]["spec"]["containers"]
    assert containers[0]["image"] == f"genmesh/services@sha256:{'0' * 64}"


def test_cards_come_from_where_the_models_are() -> None:
    for settings, image, mounted in (
        ((), "genmesh/triton-cpu:0.1.0", False),
        (("triton.modelsClaim=m",), "genmesh/services:0.1.0", True),
    ):
        (cards,) = one(objects("default", *settings), "Deployment", "mesh-embedding")["spec"]["template"]["spec"][
            "initContainers"
        ]
        assert cards["image"] == image
        assert ("/models" in [mount["mountPath"] for mount in cards["volumeMounts"]]) == mounted


def test_state_may_be_placed_too() -> None:
    found = objects(
        "default", "redis.nodeSelector.disk=ssd", "milvus.nodeSelector.disk=ssd", "prometheus.nodeSelector.disk=ssd"
    )
    for kind, name in (("Deployment", "mesh-redis"), ("StatefulSet", "mesh-milvus"), ("Deployment", "mesh-prometheus")):
        assert one(found, kind, name)["spec"]["template"]["spec"]["nodeSelector"] == {"disk": "ssd"}
