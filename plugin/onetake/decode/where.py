"""Filters in pyarrow's form: conditions on columns, all of which must hold; or lists of such, one of which must."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from onetake.core.errors import SpecError

__all__ = ["Where", "check_where", "rows_where", "where_columns", "where_in_words"]

Condition = tuple[str, str, Any]
Where = tuple[tuple[Condition, ...], ...]  # one of these must hold, which it does if all of its conditions do

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal,
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_OPERATORS = (*_COMPARE, "in", "not in")
_VALUES = (str, bool, int, float)


def check_where(where: Any) -> Where | None:
    """A filter in one form; None for none.

    Raises:
        SpecError: it is not one.
    """
    if where is None:
        return None
    if not _is_list(where) or not where:
        raise _malformed(where)
    groups = [where] if all(map(_is_condition, where)) else where
    if not all(_is_list(group) and group and all(map(_is_condition, group)) for group in groups):
        raise _malformed(where)
    return tuple(tuple(_condition(*condition) for condition in group) for group in groups)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_condition(value: Any) -> bool:
    return _is_list(value) and len(value) == 3 and all(isinstance(name, str) for name in value[:2])


def _malformed(where: Any) -> SpecError:
    return SpecError(
        f'where={where!r}: must be a list of conditions, such as [("height", ">=", 720), ("codec", "in", ["h264"])], '
        "or a list of such lists, one of which must hold"
    )


def _condition(column: str, operator: str, value: Any) -> Condition:
    if operator not in _OPERATORS:
        raise SpecError(f"where=: {column!r} {operator!r}: the operator must be one of {', '.join(_OPERATORS)}")
    several = operator in ("in", "not in")
    if several and isinstance(value, (list, tuple, set, frozenset)):
        value = tuple(sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value)
    values = value if several else [value]
    if (several and not isinstance(value, tuple)) or not all(isinstance(one, _VALUES) for one in values):
        what = "a list of texts, numbers or truth values" if several else "a text, a number or a truth value"
        raise SpecError(f"where=: {column!r} {operator} {value!r}: must be compared with {what}")
    return column, operator, value


def where_columns(where: Where) -> list[str]:
    """The columns that a filter asks for, each once."""
    return list(dict.fromkeys(column for group in where for column, _, _ in group))


def where_in_words(where: Where) -> str:
    """Such as "height >= 720 and codec in ['h264']"."""
    groups = (
        " and ".join(f"{column} {operator} {_listed(value)!r}" for column, operator, value in group) for group in where
    )
    return " or ".join(groups)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def rows_where(table: pa.Table, where: Where) -> NDArray[np.bool_]:
    """Which rows of ``table`` a filter takes. A missing value (a NaN is one too) meets no condition: neither "!=" nor
    "not in".

    Raises:
        SpecError: a column can't be compared with what it is to be.
    """
    met = np.zeros(table.num_rows, np.bool_)
    for group in where:
        every = np.ones(table.num_rows, np.bool_)
        for condition in group:
            every &= _meets(table, condition)
        met |= every
    return met


def _meets(table: pa.Table, condition: Condition) -> NDArray[np.bool_]:
    name, operator, value = condition
    column = table[name]
    try:
        if operator in _COMPARE:
            found = _COMPARE[operator](column, pa.scalar(value))
        else:
            found = pc.is_in(column, value_set=pa.array(value, column.type))
            found = pc.invert(found) if operator == "not in" else found
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        raise SpecError(
            f"where=: {name!r} holds {column.type}, which can't be compared: {operator} {_listed(value)!r}"
        ) from None
    found = pc.and_(pc.fill_null(found, False), pc.invert(pc.is_null(column, nan_is_null=True)))
    met: NDArray[np.bool_] = found.to_numpy()
    return met
