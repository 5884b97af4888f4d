"""The worker's record of its credit for direct dispatch."""

from __future__ import annotations

import pytest

from roost._worker.credit import Credit


def outstanding() -> Credit:
    """Return a worker's credit after its first grant."""
    credit = Credit()
    credit.listen_on("a")
    assert credit.grant() == 1
    return credit


def test_a_notification_matters_only_while_a_credit_is_outstanding() -> None:
    credit = outstanding()
    credit.notified()
    assert credit.needs_reconcile
    credit.needs_reconcile, credit.number = False, None
    credit.notified()
    assert not credit.needs_reconcile


def test_no_number_is_used_twice() -> None:
    credit = outstanding()
    assert [credit.grant(), credit.grant()] == [2, 3]


def test_a_new_connection_needs_a_reconcile_only_after_the_first_credit() -> None:
    credit = Credit()
    credit.listen_on("a")
    assert not credit.needs_reconcile
    credit.grant()
    credit.listen_on("b")
    assert credit.needs_reconcile


@pytest.mark.parametrize(
    ("seen", "outstanding_before", "needs_reconcile"),
    [(1, 1, False), (0, 1, True), (2, 1, True), (None, 1, False), (0, None, False)],
)
def test_a_claim_that_sees_another_credit_needs_a_reconcile(
    seen: int | None, outstanding_before: int | None, needs_reconcile: bool
) -> None:
    credit = outstanding()
    credit.compare(seen, outstanding=outstanding_before)
    assert credit.needs_reconcile is needs_reconcile


def test_a_credit_that_was_accepted_during_the_claim_needs_no_reconcile() -> None:
    credit = outstanding()
    credit.number = None
    credit.compare(0, outstanding=1)
    assert not credit.needs_reconcile
