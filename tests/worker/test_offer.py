"""The worker's book about the job that it has offered to run."""

from __future__ import annotations

import pytest

from roost._worker.offer import Offer


def offered() -> Offer:
    """Return the book of a worker that has made its first offer."""
    offer = Offer()
    offer.listens("a")
    offer.number = offer.next_number()
    assert offer.number == 1
    return offer


def test_a_notification_raises_doubt_only_while_an_offer_is_out() -> None:
    offer = offered()
    offer.told()
    assert offer.in_doubt
    offer.in_doubt, offer.number = False, None
    offer.told()
    assert not offer.in_doubt


def test_no_number_is_used_twice() -> None:
    offer = offered()
    assert [offer.next_number(), offer.next_number()] == [2, 3]


def test_only_a_connection_after_the_first_offer_raises_doubt() -> None:
    offer = Offer()
    offer.listens("a")
    assert not offer.in_doubt
    offer.next_number()
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
    offer.number = None
    offer.was_seen(0, offered=1)
    assert not offer.in_doubt
