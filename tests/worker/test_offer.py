"""The worker's book about the job that it has offered to run."""

from __future__ import annotations

import pytest

from roost._worker.offer import Offer


def offered() -> Offer:
    """Return the book of a worker that has made its first offer."""
    offer = Offer()
    offer.listens("a")
    assert offer.make() == 1
    return offer


def test_the_number_that_is_out_is_accepted_once() -> None:
    offer = offered()
    assert offer.accept(1)
    assert offer.number is None
    assert not offer.in_doubt
    assert not offer.accept(1)
    assert offer.in_doubt


@pytest.mark.parametrize("number", [0, 2, -1])
def test_another_number_is_not_accepted_and_raises_doubt(number: int) -> None:
    offer = offered()
    assert not offer.accept(number)
    assert offer.number == 1
    assert offer.in_doubt


def test_nothing_is_accepted_while_no_offer_is_out() -> None:
    offer = offered()
    offer.number = None
    assert not offer.accept(1)
    assert offer.in_doubt


def test_no_number_is_used_twice() -> None:
    offer = offered()
    offer.accept(1)
    assert offer.make() == 2
    offer.number = None
    assert offer.make() == 3


def test_only_a_connection_after_the_first_offer_raises_doubt() -> None:
    offer = Offer()
    offer.listens("a")
    assert not offer.in_doubt
    offer.make()
    offer.listens("b")
    assert offer.in_doubt


@pytest.mark.parametrize(
    ("seen", "offered_before", "in_doubt"),
    [(1, 1, False), (0, 1, True), (2, 1, True), (None, 1, False), (0, None, False)],
)
def test_what_a_claim_sees_raises_doubt_where_it_is_not_what_was_out(
    seen: int | None, offered_before: int | None, in_doubt: bool
) -> None:
    offer = offered()
    offer.was_seen(seen, offered=offered_before)
    assert offer.in_doubt is in_doubt


def test_what_was_accepted_while_the_claim_looked_raises_no_doubt() -> None:
    offer = offered()
    offer.accept(1)
    offer.was_seen(0, offered=1)
    assert not offer.in_doubt
