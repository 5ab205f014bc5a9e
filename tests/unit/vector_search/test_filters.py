"""Filters: what they mean, that nothing of a caller's text steps out of its place, and what is refused.

Its meaning is checked by the built-in store, which reads and evaluates the compiled expression.
"""

import json
import operator
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from milvus_lite.schema.types import CollectionSchema, DataType, FieldSchema
from milvus_lite.search.filter import ast, compile_expr, evaluate_mask, parse_expr

import deploy.images.vector_store  # noqa: F401  mends Milvus Lite
from services.runtime.errors import InvalidArgument
from services.vector_search.filters import MOST_CHARACTERS, MOST_DEPTH, MOST_NOTS, compile_filter, literal

OPERATORS = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


SCHEMA = CollectionSchema(
    fields=[
        FieldSchema(name="id", dtype=DataType.VARCHAR, is_primary=True, max_length=64),
        FieldSchema(name="vector", dtype=DataType.FLOAT_VECTOR, dim=2),
        FieldSchema(name="metadata", dtype=DataType.JSON),
    ]
)


def selects(text: str, metadata: dict[str, Any]) -> bool:
    compiled = compile_expr(parse_expr(compile_filter(text)), SCHEMA)
    return bool(evaluate_mask(compiled, pa.Table.from_pylist([{"metadata": json.dumps(metadata)}]))[0])


def description(text: str) -> str:
    with pytest.raises(InvalidArgument) as caught:
        compile_filter(text)
    assert caught.value.reason == "INVALID_FILTER"
    (violation,) = caught.value.violations
    assert violation.field == "filter"
    return violation.description


# Meaning


@pytest.mark.parametrize("text", ["", "  \n"])
def test_no_filter_is_no_expression(text: str) -> None:
    assert compile_filter(text) == ""


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ('source = "handbook"', 'metadata["source"] == "handbook"'),
        ('a == "x"', 'metadata["a"] == "x"'),
        ("a.b.c >= -1.5e3", 'metadata["a"]["b"]["c"] >= -1.5e3'),
        ("_document=true", 'metadata["_document"] == true'),
        ("a = FALSE", 'metadata["a"] == false'),
        ("order = 1 and notes = 2", '(metadata["order"] == 1 and metadata["notes"] == 2)'),
        ('a = "é😀"', 'metadata["a"] == "é😀"'),
        ('id = "1"', 'metadata["id"] == "1"'),
        ("((a = 1))", 'metadata["a"] == 1'),
    ],
)
def test_compiles_to(text: str, expression: str) -> None:
    assert compile_filter(text) == expression


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a = 1 OR b = 1 AND c = 1", "a = 1 OR (b = 1 AND c = 1)"),
        ("a = 1 AND b = 1 OR c = 1", "(a = 1 AND b = 1) OR c = 1"),
        ("NOT a = 1 AND b = 1", "(NOT a = 1) AND b = 1"),
        ("NOT a = 1 OR b = 1", "(NOT a = 1) OR b = 1"),
        ("a = 1 AND NOT b = 1 OR c = 1", "(a = 1 AND (NOT b = 1)) OR c = 1"),
        ("a = 1 or b = 1 And c = 1", "a = 1 OR b = 1 AND c = 1"),
    ],
)
def test_precedence(text: str, same: str) -> None:
    assert compile_filter(text) == compile_filter(same)


def test_precedence_groups_and_before_or() -> None:
    assert compile_filter("a = 1 OR b = 1 AND c = 1") == (
        '(metadata["a"] == 1 or (metadata["b"] == 1 and metadata["c"] == 1))'
    )


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("NOT a = 1", '((exists metadata["a"]) and metadata["a"] != 1)'),
        ("NOT a != 1", 'metadata["a"] == 1'),
        ("NOT a < 1", 'metadata["a"] >= 1'),
        ("NOT a <= 1", 'metadata["a"] > 1'),
        ("NOT a > 1", 'metadata["a"] <= 1'),
        ("NOT a >= 1", 'metadata["a"] < 1'),
        ("NOT NOT a = 1", 'metadata["a"] == 1'),
        ("NOT (a < 1 AND b > 2)", '(metadata["a"] >= 1 or metadata["b"] <= 2)'),
        ("NOT (a = 1 OR NOT b = 2)", '(((exists metadata["a"]) and metadata["a"] != 1) and metadata["b"] == 2)'),
        (
            "NOT a IN (1, 2)",
            '(((exists metadata["a"]) and metadata["a"] != 1) and ((exists metadata["a"]) and metadata["a"] != 2))',
        ),
    ],
)
def test_not_is_pushed_down_to_the_comparisons(text: str, expression: str) -> None:
    assert compile_filter(text) == expression


@pytest.mark.parametrize("text", ['a IN ("x", 2, true)', 'a in ["x",2,true]'])
def test_in_is_a_chain_of_ors(text: str) -> None:
    assert compile_filter(text) == '(metadata["a"] == "x" or metadata["a"] == 2 or metadata["a"] == true)'


def test_in_stays_together_beside_and() -> None:
    assert selects("a IN (1, 2) AND b = 1", {"a": 1, "b": 0}) is False
    assert selects("b = 1 AND a IN (1, 2)", {"a": 2, "b": 1}) is True


comparisons = st.tuples(st.sampled_from("abc"), st.sampled_from(sorted(OPERATORS)), st.integers(-2, 2))
trees = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.tuples(st.just("NOT"), inner),
        st.tuples(st.sampled_from(["AND", "OR"]), st.lists(inner, min_size=2, max_size=3)),
    ),
    max_leaves=8,
)


def written(tree: Any) -> str:
    if tree[0] == "NOT":
        return f"NOT ({written(tree[1])})"
    if tree[0] in ("AND", "OR"):
        return f" {tree[0]} ".join(f"({written(part)})" for part in tree[1])
    return "{} {} {}".format(*tree)


def meant(tree: Any, metadata: dict[str, int]) -> bool:
    if tree[0] == "NOT":
        return not meant(tree[1], metadata)
    if tree[0] in ("AND", "OR"):
        return (all if tree[0] == "AND" else any)(meant(part, metadata) for part in tree[1])
    name, comparator, value = tree
    return bool(OPERATORS[comparator](metadata[name], value))


VALUES = [None, True, False, 0, 1, 2**53, 1e300, "", "1", [1], {"b": 1}]
CONSTANTS = ["true", "false", "0", "1", "9007199254740993", '""', '"1"']


@pytest.mark.parametrize("value", VALUES, ids=str)
@pytest.mark.parametrize("constant", CONSTANTS)
def test_values_of_different_types_are_different(value: Any, constant: str) -> None:
    other = json.loads(constant, parse_int=float)
    alike = isinstance(value, bool) == isinstance(other, bool) and value == other
    assert selects(f"a = {constant}", {"a": value}) == alike
    assert selects(f"NOT a != {constant}", {"a": value}) == alike
    for where in (f"a != {constant}", f"NOT a = {constant}", f"NOT a IN ({constant})"):
        assert selects(where, {"a": value}) == (value is not None and not alike)
        assert not selects(where, {})
    if constant not in ("true", "false") and (type(other) not in (type(value), float) or isinstance(value, bool)):
        assert not any(selects(f"{no} a {less} {constant}", {"a": value}) for no in ("", "NOT") for less in "<>")


@given(trees, st.fixed_dictionaries({name: st.integers(-2, 2) for name in "abc"}))
def test_any_filter_selects_what_it_says(tree: Any, metadata: dict[str, int]) -> None:
    text = written(tree)
    if text.count("(") <= MOST_DEPTH and text.count("NOT") <= MOST_DEPTH:
        assert selects(text, metadata) == meant(tree, metadata)


# Injection


def assert_harmless(expression: str) -> None:
    """Only comparisons of metadata[...] with constants, joined by and/or."""

    def path(node: Any) -> None:
        assert isinstance(node, ast.PathAccess)
        assert isinstance(node.base, ast.FieldRef)
        assert node.base.name == "metadata"

    parts = [parse_expr(expression)]
    while parts:
        match parts.pop():
            case ast.And(operands=operands) | ast.Or(operands=operands):
                parts += operands
            case ast.IsNullOp(field=field, from_exists=True):
                path(field)
            case ast.CmpOp(left=left, right=right):
                path(left)
                assert isinstance(right, ast.IntLit | ast.FloatLit | ast.StringLit | ast.BoolLit)
            case other:
                pytest.fail(f"{other} is neither")


INJECTIONS = [
    r'x" or id > "',
    r"x\" or id > \"",
    "x\\",
    '"',
    '\\"',
    '") or (metadata["b"] == "',
    "'; drop",
    "a\nb\tc\r",
    "\u2028\x7f\x85",
]


@pytest.mark.parametrize("value", INJECTIONS)
def test_a_value_stays_one_value(value: str) -> None:
    expression = compile_filter(f"a = {json.dumps(value, ensure_ascii=False)}")
    assert parse_expr(expression).right.value == value
    assert_harmless(expression)


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InvalidArgument) as failure:
        compile_filter(f"a = {json.dumps(chr(0xD800))}")
    assert failure.value.reason == "INVALID_FILTER"


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\"'\\\n\r\t\0"), max_size=12), min_size=1
    )
)
def test_the_store_reads_a_literal_as_the_text_that_it_was_made_of(texts: list[str]) -> None:
    read = parse_expr(f"id in [{', '.join(map(literal, texts))}]")
    assert [element.value for element in read.values.elements] == texts
    (text, *_) = texts
    compared = parse_expr(compile_filter(f"a = {json.dumps(text)}"))
    assert compared.right.value == text


def test_an_escaped_quote_does_not_end_its_string() -> None:
    text = r'a = "x\" or id > \""'
    assert compile_filter(text) == r'metadata["a"] == "x\" or id > \""'
    assert selects(text, {"a": 'x" or id > "'}) is True
    assert selects(text, {"a": "x", "id": "z"}) is False


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=30), st.booleans())
def test_any_value_stays_one_value(value: str, ascii_only: bool) -> None:
    expression = compile_filter(f"a = {json.dumps(value, ensure_ascii=ascii_only)}")
    assert parse_expr(expression).right.value == value


@given(
    st.lists(
        st.sampled_from(
            ["a", "id", "metadata", "=", "!=", "<", '"x"', r'"\""', '"', "\\", "1", "-", "true", "AND", "or", "not",
             "in", "(", ")", "[", "]", ",", ".", "'", "`", "--", "like", "$meta", "\n"]
        ),
        max_size=12,
    )
)  # fmt: skip
def test_any_text_compiles_to_something_harmless_or_is_refused(parts: list[str]) -> None:
    expression = None
    with suppress(InvalidArgument):  # any other exception is a failure
        expression = compile_filter(" ".join(parts))
    if expression:
        assert_harmless(expression)


# Refusals


@pytest.mark.parametrize(
    "text",
    [
        "a", "=", "a =", "= 1", "a = b", "a = 'x'", 'a = "x', 'a = "x\ny"', 'a = "\\x"', "a = 01", "a = +1", "a = .5",
        "a = nan", "a = null", "a == == 1", "a = 1 b = 2", "a = 1 AND", "OR a = 1", "NOT", "(a = 1", "a = 1)", "()",
        "a IN ()", "a IN (1,)", "a IN (1]", "a IN 1", "a. b. = 1", "a..b = 1", ".a = 1", "1a = 1", "a.1 = 1", 'metadata["a"] = 1',
        'a like "x%"', "a = 1; b = 2", "a = 1 -- b", "true = 1", "and = 1", "exists a", "json_contains(a, 1)", "é = 1",
        "a = $x", "a + 1 = 2", "\0",
    ],
)  # fmt: skip
def test_syntax_errors(text: str) -> None:
    assert description(text).startswith("does not parse")


def test_a_syntax_error_has_its_place_and_text() -> None:
    text = description('a = 1 AND\n  b = "x" c = 2')
    assert "line 2, column 11" in text
    assert "c = 2" in text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('a = 1 AND\n b = "x\\x"', "line 2, column 8: a string has an escape that JSON does not know"),
        ('a = "\\ud800"', "line 1, column 5: a string has half a surrogate pair"),
        ("a = 1 OR b = 1e999", "line 1, column 14: a number is too large for 64 bits"),
        ("a IN (1, -" + "9" * 400 + ")", "line 1, column 10: a number is too large for 64 bits"),
        ("NOT a.b >= true", "line 1, column 9: >= does not compare with true or false"),
    ],
)
def test_what_parses_and_means_nothing_has_its_place(text: str, fault: str) -> None:
    assert description(text) == f"does not parse at {fault}"


@pytest.mark.parametrize(
    ("number", "written_"),
    [
        ("9007199254740991", "9007199254740991"),
        ("9007199254740993", "9007199254740992.0"),
        ("-1234567890123456789", "-1.2345678901234568e+18"),
        ("9223372036854775807", "9.223372036854776e+18"),
        ("1.50", "1.50"),
        ("1e-999", "1e-999"),
    ],
)
def test_a_number_is_rounded_to_a_double(number: str, written_: str) -> None:
    assert compile_filter(f"a = {number}") == f'metadata["a"] == {written_}'


def test_a_syntax_error_quotes_little_of_a_long_filter() -> None:
    assert len(description("a = 1 AND " * 300 + "!" + " OR a = 1" * 100)) < 120


def test_lengths() -> None:
    text = "a = 1 OR " * 454 + "a = 12"
    assert len(text) == 4092
    assert compile_filter(text + "3456").count("or") == 454
    assert description(text + "34567") == f"has 4097 characters; at most {MOST_CHARACTERS} are allowed"


@pytest.mark.parametrize(
    ("opening", "closing"),
    [("(", ")"), ("NOT ", ""), ("not ", "")],
)
def test_depth(opening: str, closing: str) -> None:
    assert compile_filter(opening * MOST_DEPTH + "a = 1" + closing * MOST_DEPTH) == 'metadata["a"] == 1'
    deep = opening * (MOST_DEPTH + 1) + "a = 1" + closing * (MOST_DEPTH + 1)
    assert f"more than {MOST_DEPTH} parentheses or NOTs" in description(deep)


def test_what_stands_side_by_side_is_not_deep() -> None:
    assert compile_filter(" AND ".join(f"(a = {i})" for i in range(100))).count("and") == 99
    assert compile_filter(" OR ".join(f"NOT (a = {i})" for i in range(MOST_NOTS))).count("!=") == MOST_NOTS
    assert f"more than {MOST_NOTS} NOTs" in description(" OR ".join(["NOT a = 1"] * (MOST_NOTS + 1)))
    assert compile_filter("(" * 32 + "NOT NOT a = 1" + ")" * 32)
    assert compile_filter("NOT (" * 32 + "a = 1" + ")" * 32)


def test_brackets_by_the_thousand_are_refused_before_parsing() -> None:
    description("(" * 4000)
    description("NOT " * 1000)
