"""The messages that the generator reads."""

from __future__ import annotations

from collections.abc import Sequence

from genmesh.v1.common_pb2 import ChatMessage

from services.rag.words import BRACKETED, tokens

SYSTEM = (
    "Answer the question with the fewest words of the passage that answers it, or with its whole sentence, and cite "
    "that passage as [n]. If no passage answers the question, say so."
)
# A question is rewritten from so many of the last messages, so many characters of each.
HISTORY, MOST_OF_A_MESSAGE = 6, 400
# What the model says then (model_repository/starter/generator teaches it).
NO_ANSWER = "The passages do not answer the question."
ABSTENTION = tokens(NO_ANSWER)


def one_line(text: str) -> str:
    return " ".join(text.split())


def messages(question: str, passages: Sequence[str]) -> list[ChatMessage]:
    """System and user message. The question stands before and after the passages: small models read once, forward."""
    question = one_line(question)
    # Numbers in brackets are the passages'; what a passage says in brackets is said in others.
    texts = [BRACKETED.sub(r"(\1)", one_line(text)) for text in passages]
    numbered = "".join(f"[{i}] {text}\n" for i, text in enumerate(texts, 1))
    user = f"Question: {question}\nPassages:\n{numbered}Question: {question}"
    return [ChatMessage(role="system", content=SYSTEM), ChatMessage(role="user", content=user)]


def standalone(history: Sequence[ChatMessage], question: str) -> list[ChatMessage]:
    """Asks for the question in a form that can be understood without the conversation."""
    system = (
        "Rewrite the last question of a conversation so that it can be understood without the conversation. Keep its words "
        "where you can, and write the question only."
    )
    turns = "".join(
        f"{message.role.capitalize()}: {one_line(BRACKETED.sub('', message.content))[:MOST_OF_A_MESSAGE]}\n"
        for message in history[-HISTORY:]
    )
    user = f"{turns}Last question: {one_line(question)}"
    return [ChatMessage(role="system", content=system), ChatMessage(role="user", content=user)]


def reformulations(question: str, count: int) -> list[ChatMessage]:
    """Asks for ``count`` reformulations of a question, one per line."""
    system = "You reformulate questions for a search engine. Write questions only, one per line, without numbers."
    ways = "1 other way" if count == 1 else f"{count} other ways"
    user = f"Write {ways} to ask this question, in its language:\n{one_line(question)}"
    return [ChatMessage(role="system", content=system), ChatMessage(role="user", content=user)]


def hypothetical_answer(question: str) -> list[ChatMessage]:
    """Asks for a passage that could answer a question (HyDE)."""
    system = "You write short encyclopedia paragraphs."
    user = f"Write two sentences of an encyclopedia that answer this question, in its language: {one_line(question)}"
    return [ChatMessage(role="system", content=system), ChatMessage(role="user", content=user)]
