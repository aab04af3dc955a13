"""Filters: pyarrow's own answers, but for missing values, which meet no condition; and mistakes by name."""

from __future__ import annotations

import math
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onetake.core.errors import SpecError
from onetake.decode.where import check_where, rows_where, where_columns, where_in_words

TABLE = pa.table(
    {
        "n": [1, 2, 3, None],
        "x": [0.5, math.nan, None, 2.0],
        "s": ["a", None, "b", "c"],
        "b": [True, False, None, True],
        "l": [[1], [2], None, []],
    }
)

FILTERS = [
    ([("n", ">=", 2)], [1, 2]),
    ([("n", "==", 2)], [1]),
    ([("n", "=", 2.0)], [1]),
    ([("n", "<", 2.5), ("s", "!=", "a")], []),
    ([["n", "<=", 3], ["s", "!=", "a"]], [2]),  # as YAML has it
    ([[("n", "=", 1)], [("s", "=", "c"), ("b", "=", True)]], [0, 3]),
    ([("s", "in", ["a", "c"])], [0, 3]),
    ([("s", "in", {"a", "c"})], [0, 3]),
    ([("n", "in", [1, 7])], [0]),
    ([("b", "=", False)], [1]),
    ([("x", ">", 0)], [0, 3]),
]


@pytest.mark.parametrize("where, rows", FILTERS, ids=str)
def test_filters(where, rows):
    assert rows_where(TABLE, check_where(where)).nonzero()[0].tolist() == rows
    filtered = TABLE.append_column("row", pa.array(range(4))).filter(pq.filters_to_expression(where))
    assert filtered["row"].to_pylist() == rows


@pytest.mark.parametrize("where, rows", [([("n", "!=", 1)], [1, 2]), ([("n", "not in", [1])], [1, 2])], ids=str)
def test_a_missing_value_meets_no_condition(where, rows):
    assert rows_where(TABLE, check_where(where)).nonzero()[0].tolist() == rows


def test_in_nothing():
    assert not rows_where(TABLE, check_where([("s", "in", [])])).any()


def test_nan_is_missing():
    assert rows_where(TABLE, check_where([("x", "!=", 0.5)])).nonzero()[0].tolist() == [3]
    assert rows_where(TABLE, check_where([("x", "not in", [0.5])])).nonzero()[0].tolist() == [3]


WRONG = {
    "one condition": ("height", ">=", 720),
    "none": [],
    "an empty group": [[]],
    "text": "height >= 720",
    "two parts": [("height", ">=")],
}


@pytest.mark.parametrize("where", WRONG.values(), ids=WRONG)
def test_what_is_no_filter(where):
    with pytest.raises(SpecError, match="must be a list of conditions, such as"):
        check_where(where)


VALUES = [
    ([("n", "~", 1)], "'n' '~': the operator must be one of =, ==, !="),
    ([("s", "in", "abc")], "'s' in 'abc': must be compared with a list of"),
    ([("s", "=", ["a"])], "'s' = ['a']: must be compared with a text"),
    ([("s", "=", None)], "'s' = None: must be compared with a text"),
    ([("n", ">=", "2")], "'n' holds int64, which can't be compared: >= '2'"),
    ([("n", "in", ["2"])], "'n' holds int64, which can't be compared: in ['2']"),
    ([("s", "<", 1)], "'s' holds string, which can't be compared: < 1"),
    ([("l", "=", 1)], "'l' holds list"),
    ([("n", ">", 10**30)], "'n' holds int64, which can't be compared"),
]


@pytest.mark.parametrize("where, message", VALUES, ids=str)
def test_what_can_not_be_compared(where, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        rows_where(TABLE, check_where(where))


def test_in_words():
    where = check_where([[("n", ">=", 2), ("s", "in", ("a", "b"))], [["b", "=", True]]])
    assert where_in_words(where) == "n >= 2 and s in ['a', 'b'] or b = True"
    assert where_columns(where) == ["n", "s", "b"]
    assert check_where(None) is None
