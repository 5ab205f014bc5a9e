"""Filters: our own small language, parsed whole before anything reaches Milvus.

Nothing of a caller's text is passed on as it is: names and values are written anew, so a filter
cannot step out of its place. NOT is pushed down to the comparisons and IN becomes a chain of ORs,
because Milvus and Milvus Lite differ there. A comparison is false where an entity lacks the name; Milvus' own
`!=` is true then, so each says that the name exists. Values of different types are not equal: Milvus keeps them apart,
Milvus Lite does in our server (deploy/images/vector_store.py).
"""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedInput, v_args
from lark.exceptions import VisitError

from services.runtime.errors import InvalidArgument, Violation

MOST_CHARACTERS = 4096
MOST_DEPTH, MOST_NOTS = 32, 128
GRAMMAR = r"""
?start: either
?either: both ("OR"i both)*            -> any_of
?both: unit ("AND"i unit)*             -> all_of
?unit: "NOT"i unit                     -> negated
     | "(" either ")"                  -> grouped
     | name COMPARATOR value           -> comparison
     | name "IN"i "[" value ("," value)* "]" -> membership
     | name "IN"i "(" value ("," value)* ")" -> membership
name: WORD ("." WORD)*
value: STRING -> string | NUMBER -> number | "true"i -> true | "false"i -> false
COMPARATOR: "==" | "=" | "!=" | "<=" | ">=" | "<" | ">"
WORD: /(?!(?:AND|OR|NOT|IN|TRUE|FALSE)(?![A-Za-z0-9_-]))[A-Za-z_][A-Za-z0-9_-]*/i
STRING: /"(?:[^"\\\x00-\x1f]|\\.)*"/
NUMBER: /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/
%ignore /\s+/
"""
STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')
NOTS = re.compile(r"\bNOT\b(?!-)", re.IGNORECASE)
NOTS_IN_A_ROW = re.compile(rf"(?:{NOTS.pattern}[\s(]*){{{MOST_DEPTH + 1}}}", re.IGNORECASE)
# The escapes that Milvus and Milvus Lite both know; any other character stands for itself.
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
# Metadata keeps numbers as doubles; below this each integer is one.
EXACT = 2.0**53
BOOLEANS = ("true", "false")
INVERSE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


def literal(text: str) -> str:
    """A string as an expression of Milvus has it; the only way by which data comes into one."""
    return f'"{text.translate(ESCAPES)}"'


class _Node:
    """A part of a filter that can write itself, or its opposite, for Milvus."""

    def write(self, positive: bool) -> str:
        raise NotImplementedError


class _Comparison(_Node):
    def __init__(self, name: str, comparator: str, value: str) -> None:
        self.name, self.comparator, self.value = name, comparator, value

    def write(self, positive: bool) -> str:
        comparator = self.comparator if positive else INVERSE[self.comparator]
        written = f"{self.name} {comparator} {self.value}"
        return f"((exists {self.name}) and {written})" if comparator == "!=" else written


class _Joined(_Node):
    def __init__(self, parts: list[_Node], *, every: bool) -> None:
        self.parts, self.every = parts, every

    def write(self, positive: bool) -> str:
        word = " and " if self.every == positive else " or "
        return "(" + word.join(part.write(positive) for part in self.parts) + ")"


class _Not(_Node):
    def __init__(self, part: _Node) -> None:
        self.part = part

    def write(self, positive: bool) -> str:
        return self.part.write(not positive)


@v_args(inline=True)
class _Build(Transformer[Token, _Node]):
    def name(self, *words: Token) -> str:
        return "metadata" + "".join(f"[{literal(str(word))}]" for word in words)

    def string(self, token: Token) -> str:
        try:
            value = json.loads(token)
        except json.JSONDecodeError as failure:
            raise _fault(token, "a string has an escape that JSON does not know", failure.pos) from None
        if any("\ud800" <= c < "\ue000" for c in value):
            raise _fault(token, "a string has half a surrogate pair")
        return literal(value)

    def number(self, token: Token) -> str:
        """Rounded as what it is compared with was."""
        value = float(token)
        if math.isinf(value):
            raise _fault(token, "a number is too large for 64 bits")
        return str(token) if abs(value) < EXACT else repr(value)

    def true(self) -> str:
        return "true"

    def false(self) -> str:
        return "false"

    def comparison(self, name: str, comparator: Token, value: str) -> _Node:
        if value in BOOLEANS and comparator not in ("=", "==", "!="):
            raise _fault(comparator, f"{comparator} does not compare with true or false")
        return _Comparison(name, "==" if comparator == "=" else str(comparator), value)

    def membership(self, name: str, *values: str) -> _Node:
        return _Joined([_Comparison(name, "==", value) for value in values], every=False)

    def grouped(self, part: _Node) -> _Node:
        return part

    def negated(self, part: _Node) -> _Node:
        return _Not(part)

    def any_of(self, *parts: _Node) -> _Node:
        return _Joined(list(parts), every=False) if len(parts) > 1 else parts[0]

    def all_of(self, *parts: _Node) -> _Node:
        return _Joined(list(parts), every=True) if len(parts) > 1 else parts[0]


_PARSER = Lark(GRAMMAR, parser="lalr", lexer="contextual")


def _invalid(description: str) -> InvalidArgument:
    return InvalidArgument(
        f"filter: {description}", reason="INVALID_FILTER", violations=[Violation("filter", description)]
    )


def _place(line: int, column: int) -> str:
    return f"line {line}, column {column}"


def _fault(token: Token, description: str, offset: int = 0) -> InvalidArgument:
    """Of what parses and means nothing."""
    return _invalid(f"does not parse at {_place(token.line or 1, (token.column or 1) + offset)}: {description}")


def compile_filter(text: str) -> str:
    """Milvus' expression for a filter; "" for "". INVALID_ARGUMENT/INVALID_FILTER where it does not parse."""
    if not text.strip():
        return ""
    if len(text) > MOST_CHARACTERS:
        raise _invalid(f"has {len(text)} characters; at most {MOST_CHARACTERS} are allowed")
    bare = STRINGS.sub("", text)
    depths = accumulate({"(": 1, ")": -1}.get(character, 0) for character in bare)
    if len(NOTS.findall(bare)) > MOST_NOTS:
        raise _invalid(f"has more than {MOST_NOTS} NOTs")
    if max(depths) > MOST_DEPTH or NOTS_IN_A_ROW.search(bare):
        raise _invalid(f"has more than {MOST_DEPTH} parentheses or NOTs within each other")
    try:
        tree: Any = _PARSER.parse(text)
        node: _Node = _Build().transform(tree)
    except UnexpectedInput as failure:
        place = _place(failure.line, failure.column) if failure.line > 0 else "its end"
        raise _invalid(
            f"does not parse at {place}: {text[max(0, (failure.pos_in_stream or 0) - 20) :][:40]!r}"
        ) from None
    except VisitError as failure:
        raise failure.orig_exc from None
    return node.write(True)
