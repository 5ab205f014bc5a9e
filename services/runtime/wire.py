"""Which field of an undecodable message is at fault (proto3 wire format, read with a descriptor)."""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor, FieldDescriptor

MOST_DEPTH = 100  # protobuf's own limit
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError


def broken_utf8(data: bytes, descriptor: Descriptor, path: str = "", depth: int = 0) -> str | None:
    """The path of the first string field whose bytes are no UTF-8; None where there is none or the wire is broken."""
    at = 0
    if depth > MOST_DEPTH:
        return None
    seen: dict[int, int] = {}
    try:
        while at < len(data):
            key, at = _varint(data, at)
            number, kind = key >> 3, key & 7
            if kind == VARINT:
                _, at = _varint(data, at)
            elif kind == FIXED64:
                at += 8
            elif kind == FIXED32:
                at += 4
            elif kind == BYTES:
                size, at = _varint(data, at)
                if at + size > len(data):
                    return None
                body, at = data[at : at + size], at + size
                field = descriptor.fields_by_number.get(number)
                if field is None:
                    continue
                place = path + field.name
                if field.is_repeated:
                    place += f"[{seen.get(number, 0)}]"
                    seen[number] = seen.get(number, 0) + 1
                if field.type == FieldDescriptor.TYPE_STRING:
                    try:
                        body.decode("utf-8")
                    except UnicodeDecodeError:
                        return place
                elif field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None:
                    inner = broken_utf8(body, field.message_type, place + ".", depth + 1)
                    if inner:
                        return inner
            else:
                return None
    except (IndexError, ValueError):
        return None
    return None
