"""The files scenarios.yaml and slo.yaml: ours are valid, and a mistake is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadtest import arrivals, operations, scenarios, slo
from loadtest.scenarios import OPERATIONS, ScenarioError

CHAT = "chat: {about: x, mix: {chat: {}}, arrivals: {kind: poisson, rate: 1}"


def test_our_files_are_valid() -> None:
    found = scenarios.load()
    objectives = slo.load()
    used = {name for one in found.values() for name in one.mix}
    assert used == set(OPERATIONS) == set(operations.BY_NAME) == set(objectives)
    kinds = {one.arrivals.kind for one in found.values()}
    assert kinds == {"closed", "constant", "poisson", "ramp", "burst", "replay"}
    for one in found.values():
        assert not one.is_open or arrivals.plan(one)


def test_every_service_and_mix_has_a_user() -> None:
    # In a process of its own: Locust patches the standard library of the one that imports it.
    command = [sys.executable, "-m", "locust", "-f", str(scenarios.FOLDER / "locustfile.py"), "--list"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    services = {
        "TokenizationUser",
        "EmbeddingUser",
        "VectorSearchUser",
        "GenerationUser",
        "DiffusionUser",
        "ModelsUser",
    }
    mixes = {"ChatUser", "RagUser", "EmbeddingBulkUser", "ImagesUser", "MixedUser"}
    assert services | mixes | {"RagServiceUser"} <= set(done.stdout.split())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{CHAT}, sed: 2}}", "s.yaml: chat: sed: Extra inputs are not permitted"),
        (CHAT.replace("rate: 1", "rate: 0") + "}", r"arrivals.rate: Input should be greater than 0 \(it is 0\)"),
        (CHAT.replace("poisson", "poison") + "}", "arrivals: Input tag 'poison'"),
        (CHAT.replace("chat: {}", "talk: {}") + "}", r"mix.talk: Input should be 'tokenize'"),
        (
            CHAT.replace("chat: {}", "chat: {words: [9, 3]}") + "}",
            r"mix.chat: words is \[9, 3\]; the least comes first",
        ),
        (
            CHAT.replace("chat: {}", "chat: {weight: 0}") + "}",
            "mix.chat.weight: Input should be greater than or equal to 1",
        ),
        (CHAT.replace("chat: {}", "") + "}", "mix: Dictionary should have at least 1 item"),
        (CHAT.replace("kind: poisson, rate: 1", "kind: closed") + "}", "arrivals.users: Field required"),
        (f"{CHAT}, duration_seconds: soon}}", r"duration_seconds: Input should be a valid number.* \(it is 'soon'\)"),
        ("[", "is no YAML"),
        ("- chat", "is not a mapping by name"),
    ],
)
def test_a_mistake_in_a_scenario_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError, match=told):
        scenarios.load(path)


def test_an_unknown_scenario_is_told_with_those_there_are() -> None:
    with pytest.raises(ScenarioError, match=r"There is no scenario nope; scenarios.yaml has chat, chat-bursts.*rag"):
        scenarios.pick("nope")
    with pytest.raises(ScenarioError, match=r"A scenario is needed; scenarios.yaml has chat"):
        scenarios.pick("")


def test_a_trace_stands_relative_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"at_seconds": 1}')
    (tmp_path / "s.yaml").write_text("a: {about: x, mix: {chat: {}}, arrivals: {kind: replay, path: t.jsonl}}")
    assert len(arrivals.plan(scenarios.pick("a", tmp_path / "s.yaml"))) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("talk: {goodput: 0.9}", "slo.yaml: talk is no operation; there are tokenize"),
        ("chat: {goodput: 95}", r"slo.yaml: chat: goodput: Input should be less than or equal to 1 \(it is 95\)"),
        ("chat: {ttft_p95: 3}", "slo.yaml: chat: ttft_p95: Extra inputs"),
        ("chat: {call: {ttft_ms: -1}}", "slo.yaml: chat: call.ttft_ms: Input should be greater than 0"),
        ("chat: {}", "slo.yaml: chat: no objective is set"),
        ("chat: fast", "slo.yaml: chat: Input should be a valid dictionary"),
    ],
)
def test_a_mistake_in_an_objective_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "slo.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError, match=told):
        slo.load(path)
