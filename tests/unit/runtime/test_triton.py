"""What a stream does where a replica of Triton has not the version asked for. The replicas are fakes that inject that:
Triton says it within the stream, in words and without a status, while it loads a model or ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc
from tritonclient.utils import InferenceServerException

from services.runtime import replicas
from services.runtime import triton as triton_calls
from services.runtime.errors import Internal, ResourceExhausted, Unavailable
from services.runtime.metrics import Models
from services.runtime.models import Card
from services.runtime.triton import Triton, scalar
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a replica lacks it lacks for the whole test, and none is out because the machine is busy."""
    monkeypatch.setattr(replicas, "LACKING_SECONDS", 1e6)
    monkeypatch.setattr(replicas, "PROBE_TIMEOUT_SECONDS", 60.0)


class Replica(rpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, failure: str) -> None:
        self.failure, self.asked = failure, 0
        self.probed = asyncio.Event()  # until then it answers no probe
        self.probed.set()
        self.models: dict[str, str] | None = {}  # why it is not ready, by "name version"; None: it fails

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        if self.models is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "ending")
        found = pb.RepositoryIndexResponse()
        for model, reason in (self.models or {}).items():
            name, version = model.split()
            found.models.add(name=name, version=version, state="UNAVAILABLE" if reason else "READY", reason=reason)
        return found

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        await self.probed.wait()
        return pb.ServerReadyResponse(ready=True)

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for _ in requests:
            self.asked += 1
            if self.failure:
                yield pb.ModelStreamInferResponse(error_message=self.failure)
                continue
            answer = pb.ModelInferResponse(model_name="generator")
            answer.outputs.add(name="text_output", datatype="BYTES", shape=[1])
            answer.raw_output_contents.append(b"\x02\x00\x00\x00hi")
            answer.parameters["triton_final_response"].bool_param = True
            yield pb.ModelStreamInferResponse(infer_response=answer)


@asynccontextmanager
async def caller_of(*replicas: Replica) -> AsyncIterator[Triton]:
    """What asks them, once it knows of each that can be asked that it is there."""
    addresses = []
    async with AsyncExitStack() as stack:
        for replica in replicas:
            server = grpc.aio.server()
            rpc.add_GRPCInferenceServiceServicer_to_server(replica, server)
            addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
            await server.start()
            stack.push_async_callback(server.stop, None)

        async def all_of_them(host: str, port: int) -> list[str]:
            return addresses

        triton = Triton("triton:8001", Models("generation", CollectorRegistry(), model=["generator"]))
        triton.replicas.resolver = all_of_them
        stack.push_async_callback(triton.close)
        if all(replica.probed.is_set() for replica in replicas):
            await triton.replicas.ready()
            await eventually(lambda: all(replica.usable for replica in triton.replicas.known.values()))
        yield triton


class Asked:
    name, version, revision = "generator", "2", "r"


async def answer(triton: Triton) -> list[bytes]:
    tensors = {"text_input": scalar("hello"), "stream": scalar(True, np.bool_)}
    responses = triton.stream(cast(Card, Asked()), tensors, "chat")
    return [result.as_numpy("text_output")[0] async for result in responses]


ENDING = "Request for unknown model: 'generator' version 2 is not at ready state"


async def test_a_replica_that_ends_is_left_for_another() -> None:
    ending, well = Replica(ENDING), Replica("")
    async with caller_of(ending, well) as triton:
        for _ in range(4):
            assert await answer(triton) == [b"hi"]
    assert ending.asked
    assert well.asked == 4


async def test_a_replica_that_lacks_a_version_is_not_asked_again() -> None:
    lacking, well = Replica(ENDING.replace("is not at ready state", "is not found")), Replica("")
    async with caller_of(lacking, well) as triton:
        for _ in range(4):
            assert await answer(triton) == [b"hi"]
    assert (lacking.asked, well.asked) == (1, 4)


FULL = [
    ("generator: all 4 adapters that fit into memory are in use", "ADAPTERS_BUSY"),
    ("generator: 512 requests wait already", "OVERLOADED"),
    ("generator: 512 requests wait for an adapter already", "OVERLOADED"),
    ("diffuser: too many images wait already", "OVERLOADED"),
    ("[request id: <id_unknown>] Exceeds maximum queue size", "OVERLOADED"),
    ("generator: the request does not fit into the KV cache", "KV_CACHE_EXCEEDED"),
]


@pytest.mark.parametrize(("words", "reason"), FULL)
async def test_a_replica_without_room_stays_and_another_is_asked(words: str, reason: str) -> None:
    full, well = Replica(words), Replica("")
    async with caller_of(full, well) as triton:
        for calls in range(1, 101):  # which of two is asked first is chance
            assert await answer(triton) == [b"hi"]
            assert well.asked == calls
            if full.asked > 1:
                break
        assert all(replica.usable for replica in triton.replicas.known.values())
    assert full.asked > 1


async def test_before_any_probe_came_back_another_is_asked_too() -> None:
    """A service's first calls do not wait for its first probes."""
    full, well = Replica(FULL[0][0]), Replica("")
    full.probed.clear()
    well.probed.clear()
    async with caller_of(full, well) as triton:
        for _ in range(2):  # one begins with either
            assert await answer(triton) == [b"hi"]
        assert not any(replica.begun for replica in triton.replicas.known.values())
    assert (full.asked, well.asked) == (1, 2)


@pytest.mark.parametrize(("words", "reason"), FULL)
async def test_where_no_replica_has_room_the_caller_is_told_to_wait(words: str, reason: str) -> None:
    async with caller_of(Replica(words), Replica(words)) as triton:
        with pytest.raises(ResourceExhausted) as caught:
            await answer(triton)
    assert caught.value.reason == reason
    assert caught.value.retry_after_seconds


def test_a_full_queue_is_no_lost_replica_whatever_status_triton_gives_it() -> None:
    failure = InferenceServerException("Exceeds maximum queue size", "StatusCode.UNAVAILABLE")
    error = triton_calls._error("upscaler", failure)
    assert isinstance(error, ResourceExhausted)
    assert not triton_calls._unreachable(failure)


async def test_what_broke_an_engine_is_kept_until_it_answers() -> None:
    ended = "generator: the engine stopped: the thread engine ended: RuntimeError: no memory"
    replica = Replica(ended)
    async with caller_of(replica) as triton:
        with pytest.raises(Unavailable) as caught:
            await answer(triton)
        assert caught.value.reason == "MODEL_UNAVAILABLE"
        assert triton.broken == {"generator": ended}
        replica.failure = "generator: engine step: no memory"
        with pytest.raises(Internal):
            await answer(triton)
        assert triton.broken == {"generator": replica.failure}
        replica.failure = ""
        assert await answer(triton) == [b"hi"]
        assert not triton.broken


async def test_where_none_has_it_the_call_is_told_to_come_again() -> None:
    async with caller_of(Replica(ENDING), Replica(ENDING)) as triton:
        with pytest.raises(Unavailable) as caught:
            await answer(triton)
    assert caught.value.reason == "MODEL_UNAVAILABLE"


async def test_the_index_is_of_all_replicas() -> None:
    old, new, silent = Replica(""), Replica(""), Replica("")
    old.models, silent.models = {"generator 1": ""}, None
    new.models = {"generator 1": "unloaded", "generator 2": ""}
    async with caller_of(old, new, silent) as triton:
        found, count = await triton.index()
        assert count == 3
        assert {key: sorted(reasons) for key, reasons in found.items()} == {
            ("generator", "1"): ["", "Triton does not answer", "unloaded"],
            ("generator", "2"): ["", "Triton does not answer"],
        }
        old.models = new.models = None
        with pytest.raises(Unavailable):
            await triton.index()
