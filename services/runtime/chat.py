"""Chat messages of requests: checks, and the plain dicts that templates read."""

from __future__ import annotations

from collections.abc import Sequence

from genmesh.v1.common_pb2 import ChatMessage

from services.runtime.validation import Fields

ROLES = ("system", "user", "assistant")


def check_messages(messages: Sequence[ChatMessage], field: str = "messages", *, last_from_user: bool = False) -> None:
    """INVALID_ARGUMENT where a message of a chat is out of range."""
    fields = Fields()
    fields.size(field, messages, most=1000)
    for i, message in enumerate(messages):
        if message.role not in ROLES:
            fields.fault(f"{field}[{i}].role", f"is {message.role!r}; one of {', '.join(ROLES)} is allowed")
        fields.text(f"{field}[{i}].content", message.content, most=200_000)
    if last_from_user and messages and messages[-1].role != "user":
        fields.fault(f"{field}[{len(messages) - 1}].role", "the last message must be from the user")
    fields.done()


def plain(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]
