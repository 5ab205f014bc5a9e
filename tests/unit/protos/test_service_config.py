"""The service config: every name resolves, every method has one deadline, and only safe methods are retried."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import grpc
import pytest
from genmesh._services import SERVICES, methods
from google.protobuf import descriptor_pool

FILE = Path(__file__).resolve().parents[3] / "protos" / "service_config.json"
CONFIG: dict[str, Any] = json.loads(FILE.read_text())
ENTRIES = [(entry, name) for entry in CONFIG["methodConfig"] for name in entry["name"]]


def rule_of(service: str, method: str) -> dict[str, Any]:
    """The entry that gRPC takes: the method's own, else its service's."""
    for wanted in ({"service": service, "method": method}, {"service": service}):
        found = [entry for entry, name in ENTRIES if name == wanted]
        assert len(found) <= 1
        if found:
            return found[0]
    raise AssertionError(f"{service}/{method} has no deadline")


@pytest.mark.parametrize("name", [name for _, name in ENTRIES], ids=lambda n: "/".join(n.values()))
def test_every_name_resolves(name: dict[str, str]) -> None:
    service = descriptor_pool.Default().FindServiceByName(name["service"])
    assert "method" not in name or name["method"] in service.methods_by_name


@pytest.mark.parametrize("service", SERVICES.values())
def test_every_method_has_one_deadline(service: str) -> None:
    for method in methods(service):
        assert re.fullmatch(r"[1-9]\d*s", rule_of(service, method.name)["timeout"])


@pytest.mark.parametrize("service", SERVICES.values())
def test_streams_and_methods_that_may_not_run_twice_are_not_retried(service: str) -> None:
    once = {"CreateCollection", "DeleteCollection", "DeleteDocument", "Generate", "Chat"}
    for method in methods(service):
        if method.client_streaming or method.server_streaming or method.name in once:
            assert "retryPolicy" not in rule_of(service, method.name)


def test_retries_are_few_and_for_unavailable_only() -> None:
    policies = [entry["retryPolicy"] for entry in CONFIG["methodConfig"] if "retryPolicy" in entry]
    assert policies
    for policy in policies:
        assert policy["retryableStatusCodes"] == ["UNAVAILABLE"]
        assert 2 <= policy["maxAttempts"] <= 5  # gRPC allows no more


def test_the_package_carries_the_same_config() -> None:
    assert json.loads(files("genmesh").joinpath("service_config.json").read_text()) == CONFIG


async def test_grpc_takes_it() -> None:
    options = [("grpc.service_config", FILE.read_text()), ("grpc.enable_retries", 1)]
    async with grpc.aio.insecure_channel("127.0.0.1:1", options=options) as channel:
        call = channel.unary_unary("/genmesh.v1.TokenizationService/Count")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", timeout=5)
    # A config that gRPC refuses says so here; this one fails just because nobody listens.
    assert "service config" not in (caught.value.details() or "").lower()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
