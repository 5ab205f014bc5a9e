"""What the sync and the async client share: services, messages, channel options."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from genmesh.errors import DeadlineExceeded, FieldViolation, InvalidArgument
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
FLOATS = (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE)
Request = Message | Mapping[str, Any]


def methods(service: str) -> list[MethodDescriptor]:
    found: list[MethodDescriptor] = list(descriptor_pool.Default().FindServiceByName(service).methods)
    return found


def _refused(path: str, text: str) -> InvalidArgument:
    violations = (FieldViolation(path, text),) if path else ()
    message = f"{path}: {text}" if path else text
    return InvalidArgument(message, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", field_violations=violations)


def _encoded(value: Any, path: str, kind: Any, field: FieldDescriptor | None) -> Any:
    """A value as protobuf's JSON has it: bytes as base64, numbers that are none as words. ``kind``: the descriptor of
    the message that a mapping stands for."""
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, str) and any("\ud800" <= c < "\ue000" for c in value):
        raise _refused(path, "has half a surrogate pair, which is no text (bytes that are no UTF-8 come to this)")
    if isinstance(value, float) and not math.isfinite(value) and field is not None and field.type in FLOATS:
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        found = {}
        for key, item in value.items():
            inner = kind.fields_by_name.get(key) if kind is not None else None
            below = f"{path}.{key}" if path else str(key)
            found[key] = _encoded(item, below, inner.message_type if inner is not None else None, inner)
        return found
    if isinstance(value, list | tuple):
        return [_encoded(item, f"{path}[{i}]", kind, field) for i, item in enumerate(value)]
    return value


def to_message(request: Request, kind: type[Message]) -> Message:
    """A request as a message; a dict has the fields' names, as in the protos, and bytes as they are.

    InvalidArgument/INVALID_REQUEST, with the field, where a dict is no such message."""
    if isinstance(request, kind):
        return request
    if not isinstance(request, Mapping):
        raise TypeError(f"expected a {kind.DESCRIPTOR.name} or a dict of its fields, not a {type(request).__name__}")
    encoded = _encoded(request, "", kind.DESCRIPTOR, None)
    try:
        return json_format.ParseDict(encoded, kind())
    except (json_format.ParseError, TypeError, ValueError) as failure:
        text = str(failure)
        # It says where at its end ("... at CountRequest.texts[0]."), or names each field on the way.
        place = re.search(rf" at {kind.DESCRIPTOR.name}\.([\w.\[\]]+?)\.*$", text)
        names = re.findall(r"Failed to parse (\w+) field", text)
        raise _refused(place[1] if place else ".".join(names), text) from None


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
