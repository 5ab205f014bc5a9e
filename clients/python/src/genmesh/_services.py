"""What the sync and the async client share: services, messages, channel options."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from genmesh.errors import DeadlineExceeded
from genmesh.v1 import (  # noqa: F401 - registers the descriptors
    diffusion_pb2,
    embedding_pb2,
    generation_pb2,
    models_pb2,
    rag_pb2,
    tokenization_pb2,
    vector_search_pb2,
)

# Attribute of a client -> proto service.
SERVICES = {
    "tokenization": "genmesh.v1.TokenizationService",
    "embedding": "genmesh.v1.EmbeddingService",
    "vector_search": "genmesh.v1.VectorSearchService",
    "generation": "genmesh.v1.GenerationService",
    "diffusion": "genmesh.v1.DiffusionService",
    "rag": "genmesh.v1.RagService",
    "models": "genmesh.v1.ModelService",
}
MESSAGE_LIMIT = 64 * 2**20
Request = Message | Mapping[str, Any]


def methods(service: str) -> list[MethodDescriptor]:
    found: list[MethodDescriptor] = list(descriptor_pool.Default().FindServiceByName(service).methods)
    return found


def _encoded(value: Any) -> Any:
    """Bytes as protobuf's JSON has them, base64, wherever they stand."""
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
    return value


def to_message(request: Request, kind: type[Message]) -> Message:
    """A request as a message; a dict has the fields' names, as in the protos, and bytes as they are."""
    if isinstance(request, kind):
        return request
    if isinstance(request, Mapping):
        return json_format.ParseDict(_encoded(request), kind())
    raise TypeError(f"expected a {kind.DESCRIPTOR.name} or a dict of its fields, not a {type(request).__name__}")


def message_class(method: MethodDescriptor, *, output: bool) -> type[Message]:
    return message_factory.GetMessageClass(method.output_type if output else method.input_type)


def channel_options(target_retries: bool = True) -> list[tuple[str, Any]]:
    """Deadlines and retries as data: the service config that the package carries."""
    config = files("genmesh").joinpath("service_config.json").read_text()
    return [
        ("grpc.service_config", config),
        ("grpc.enable_retries", int(target_retries)),
        ("grpc.max_receive_message_length", MESSAGE_LIMIT),
        ("grpc.max_send_message_length", MESSAGE_LIMIT),
        ("grpc.keepalive_time_ms", 20_000),
        # What was sent and not acknowledged for so long ends the connection too (TCP_USER_TIMEOUT).
        ("grpc.keepalive_timeout_ms", 5_000),
        # A virtual address may send a new connection to a replica that is just gone: try again soon, and give up on one
        # that does not answer.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 2_000),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]


def check_deadline(timeout: float | None) -> None:
    """Refuse a deadline that has passed; the transport would round it up to its clock's next tick."""
    if timeout is not None and timeout <= 0:
        raise DeadlineExceeded(f"the deadline has passed ({timeout:g} s)", grpc.StatusCode.DEADLINE_EXCEEDED)


def with_key(metadata: Any, api_key: str | None) -> tuple[tuple[str, str | bytes], ...]:
    own = (("authorization", f"Bearer {api_key}"),) if api_key else ()
    return (*(metadata or ()), *own)
