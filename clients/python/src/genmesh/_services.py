"""What the sync and the async client share: services, messages, channel options."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from numbers import Real
from typing import Any

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from genmesh.errors import DeadlineExceeded, FailedPrecondition, FieldViolation, InvalidArgument
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
# gRPC's clock overflows at ten times as many seconds, and the call ends at once.
MAX_TIMEOUT = 1_000_000_000
# A message of 100 levels can be read; a level of a Struct takes three.
LEVELS = 32
BYTES = (bytes, bytearray, memoryview)
FLOATS = (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE)
EXPECTED = {FieldDescriptor.TYPE_STRING: "a str", FieldDescriptor.TYPE_MESSAGE: "a dict"}
HEADER = re.compile(r"[ -~]*")  # what a header's value may hold
Request = Message | Mapping[str, Any]


def methods(service: str) -> list[MethodDescriptor]:
    found: list[MethodDescriptor] = list(descriptor_pool.Default().FindServiceByName(service).methods)
    return found


def refused(path: str, text: str) -> InvalidArgument:
    """What this client refuses itself, before a call; ``path``: the field or the argument."""
    violations = (FieldViolation(path, text),) if path else ()
    message = f"{path}: {text}" if path else text
    return InvalidArgument(message, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", field_violations=violations)


def closed() -> FailedPrecondition:
    return FailedPrecondition("the client is closed", grpc.StatusCode.FAILED_PRECONDITION, "CLIENT_CLOSED")


def _kind(value: Any) -> str:
    return f"is of type {type(value).__name__}"


def _check_text(value: str, path: str) -> str:
    if any("\ud800" <= c < "\ue000" for c in value):
        raise refused(path, "has half a surrogate pair, which is no text (bytes that are no UTF-8 come to this)")
    return value


def _float(value: int, path: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise refused(path, "is too large for a number of the protos") from None


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _fields(value: Any, path: str, kind: Any) -> dict[str, Any]:
    """A mapping as protobuf's JSON has the message of this kind, a descriptor."""
    if not isinstance(value, Mapping):
        raise refused(path, f"{_kind(value)}; a dict of the fields of {kind.name} is expected")
    found = {}
    for name, item in value.items():
        if not isinstance(name, str):
            raise refused(path or "request", f"has a key that {_kind(name)}; the names of fields are of type str")
        below = _below(path, _check_text(name, path or "request"))
        field = kind.fields_by_name.get(name) or kind.fields_by_camelcase_name.get(name)
        if field is None:
            raise refused(below, f"{kind.name} has no such field, only {', '.join(f.name for f in kind.fields)}")
        found[name] = _field(item, below, field)
    return found


def _field(value: Any, path: str, field: FieldDescriptor) -> Any:
    if value is None or not field.is_repeated:
        return value if value is None else _single(value, path, field)
    if not isinstance(value, list | tuple):
        raise refused(path, f"{_kind(value)}; a list is expected")
    return [_single(item, f"{path}[{i}]", field) for i, item in enumerate(value)]


def _single(value: Any, path: str, field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        if not isinstance(value, BYTES):
            raise refused(path, f"{_kind(value)}; bytes are expected")
        return base64.b64encode(value).decode()
    if isinstance(value, BYTES) or (field.type == FieldDescriptor.TYPE_STRING and not isinstance(value, str)):
        raise refused(path, f"{_kind(value)}; {EXPECTED.get(field.type, 'a number or a name')} is expected")
    if value is None:
        raise refused(path, "is None")
    if field.message_type is not None:
        if field.message_type.full_name == "google.protobuf.Struct":
            return _struct(value, path, path, 1)
        return _fields(value, path, field.message_type)
    if isinstance(value, str):
        return _check_text(value, path)
    if isinstance(value, float) and not math.isfinite(value):
        if field.type not in FLOATS:
            raise refused(path, f"is {value}; a finite number is expected")
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return _float(value, path) if isinstance(value, int) and field.type in FLOATS else value


def _struct(value: Any, path: str, root: str, level: int) -> dict[str, Any]:
    """A mapping as a Struct; ``root``: the field that holds it all."""
    if level > LEVELS:
        raise refused(root, f"is nested more than {LEVELS} levels deep")
    if not isinstance(value, Mapping):
        raise refused(path, f"{_kind(value)}; a dict is expected")
    found = {}
    for name, item in value.items():
        if not isinstance(name, str):
            raise refused(path, f"has a key that {_kind(name)}; keys are of type str")
        below = _below(path, _check_text(name, path))
        found[name] = _value(item, below, root, level + 1)
    return found


def _value(value: Any, path: str, root: str, level: int) -> Any:
    if isinstance(value, Mapping):
        return _struct(value, path, root, level)
    if isinstance(value, list | tuple):
        if level > LEVELS:
            raise refused(root, f"is nested more than {LEVELS} levels deep")
        return [_value(item, f"{path}[{i}]", root, level + 1) for i, item in enumerate(value)]
    if isinstance(value, str):
        return _check_text(value, path)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return _float(value, path)
    raise refused(path, f"{_kind(value)}; JSON's kinds of values are expected")


def to_message(request: Request, kind: type[Message]) -> Message:
    """A request as a message; a dict has the fields' names, as in the protos, and bytes as they are.

    InvalidArgument/INVALID_REQUEST, with the field, if a dict is no such message."""
    if isinstance(request, kind):
        return request
    if not isinstance(request, Mapping):
        name = kind.DESCRIPTOR.name
        raise refused("request", f"{_kind(request)}; a message {name} or a dict of its fields is expected")
    encoded = _fields(request, "", kind.DESCRIPTOR)
    try:
        return json_format.ParseDict(encoded, kind())
    except (json_format.ParseError, TypeError, ValueError) as failure:
        text = str(failure)
        # It says where at its end ("... at CountRequest.texts[0]."), or names each field on the way.
        place = re.search(rf" at {kind.DESCRIPTOR.name}\.([\w.\[\]]+?)\.*$", text)
        names = re.findall(r"Failed to parse (\w+) field", text)
        raise refused(place[1] if place else ".".join(names), text) from None


def check_requests(requests: Any, *kinds: type) -> None:
    """Refuse what is no iterable of requests; a single request is iterable too, but not meant so."""
    if isinstance(requests, Mapping | Message | str) or not isinstance(requests, kinds):
        raise refused("request", f"{_kind(requests)}; an iterable of requests is expected")


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


def check_connection(target: Any, credentials: Any) -> None:
    """Refuse a target or credentials from which gRPC makes no channel."""
    if not isinstance(target, str):
        raise refused("target", f"{_kind(target)}; a host:port is expected")
    # gRPC finds no name in "dns:///", and reads a name up to a NUL.
    if not target.strip() or not target.isprintable() or target.endswith("/"):
        raise refused("target", f"is {target!a}; a host:port is expected")
    if credentials is not None and not isinstance(credentials, grpc.ChannelCredentials):
        raise refused("credentials", f"{_kind(credentials)}; grpc.ChannelCredentials are expected")


def check_timeout(timeout: Any) -> None:
    """Refuse a deadline that is none, or that has passed: the transport would round it up to its clock's next tick."""
    if timeout is None:
        return
    number = isinstance(timeout, Real) and not isinstance(timeout, bool)
    if not number:
        raise refused("timeout", f"{_kind(timeout)}; a number of seconds is expected")
    if not 0 <= timeout <= MAX_TIMEOUT:  # nor is NaN
        raise refused("timeout", f"0 to {MAX_TIMEOUT:,} seconds are allowed")
    if timeout == 0:
        text = "the deadline has passed (0 s)"
        raise DeadlineExceeded(text, grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_ALREADY_PASSED")


def checked_key(api_key: Any) -> str:
    """The key without the white space that a file or a shell has at its ends."""
    if api_key is not None and not isinstance(api_key, str):
        raise refused("api_key", f"{_kind(api_key)}; a str is expected")
    key = (api_key or "").strip()
    if not HEADER.fullmatch(key):
        raise refused("api_key", "has characters that are no printable ASCII")
    return key


def with_key(metadata: Any, api_key: str | None) -> tuple[tuple[str, str | bytes], ...]:
    """The metadata of a call; InvalidArgument names the entry that gRPC would not send."""
    own = (("authorization", f"Bearer {api_key}"),) if api_key else ()
    if metadata is None:
        return own
    if isinstance(metadata, Mapping | str) or not isinstance(metadata, Iterable):
        raise refused("metadata", f"{_kind(metadata)}; pairs of a name and a value are expected")
    pairs = list(metadata)
    for i, pair in enumerate(pairs):
        path = f"metadata[{i}]"
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise refused(path, "is no pair of a name and a value")
        name, value = pair
        if not isinstance(name, str) or not re.fullmatch(r"[0-9a-z_.-]+", name):
            raise refused(path, f"has the name {name!a}; lower-case letters, digits, '_', '.' and '-' are allowed")
        if name.endswith("-bin"):
            if not isinstance(value, bytes):
                raise refused(path, f"the value of {name} {_kind(value)}; bytes are expected")
        elif not isinstance(value, str) or not HEADER.fullmatch(value):
            raise refused(path, f"the value of {name} is no printable ASCII of type str")
    return (*((name, value) for name, value in pairs), *own)
