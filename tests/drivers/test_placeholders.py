"""``$n`` placeholders become ``%s``, and the rest of a statement keeps its meaning."""

from __future__ import annotations

import re

from roost._drivers.borrowed.common import to_percent_placeholders
from roost._sql import STAGES, statements


def test_parameters_are_put_in_the_order_of_their_placeholders() -> None:
    assert to_percent_placeholders("select $2, $1", ("a", "b")) == ("select %s, %s", ("b", "a"))


def test_a_parameter_is_repeated_where_its_placeholder_is() -> None:
    assert to_percent_placeholders("$1 $2 $1::text", (7, 8)) == ("%s %s %s::text", (7, 8, 7))


def test_parameter_ten_is_not_read_as_parameter_one() -> None:
    text, parameters = to_percent_placeholders("$10 $1 $11", tuple(range(1, 12)))
    assert (text, parameters) == ("%s %s %s", (10, 1, 11))


def test_percent_signs_are_doubled() -> None:
    text = "select 'a%' like $1 and 7 % 3 = 1"
    assert to_percent_placeholders(text, ("a",)) == ("select 'a%%' like %s and 7 %% 3 = 1", ("a",))


def test_comments_are_removed_with_the_parameters_in_them() -> None:
    text = "-- $1: 100% of it, $2 unused\nselect $2 -- not $1\nfrom t"
    assert to_percent_placeholders(text, ("a", "b")) == ("\nselect %s \nfrom t", ("b",))


def test_every_statement_of_roost_can_be_converted() -> None:
    for stage in STAGES:
        for name, statement in statements(stage).items():
            bare = re.sub(r"--.*", "", statement.text)
            numbers = [int(found) for found in re.findall(r"\$(\d+)", bare)]
            parameters = tuple(range(1, max(numbers, default=0) + 1))
            text, order = to_percent_placeholders(statement.text, parameters)
            assert text % tuple(f"${number}" for number in order), name
            # A string with two dashes would be cut off there.
            assert "--" not in re.sub(r"^\s*--.*$", "", statement.text, flags=re.MULTILINE), name
            assert set(order) == set(parameters), name
