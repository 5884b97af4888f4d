"""The table of moves is exactly the documented state machine."""

from __future__ import annotations

import pytest

from roost import JobState
from roost._model.states import ACTIVE, MOVES, TERMINAL, Event, move


def test_a_state_equals_its_text() -> None:
    assert [state.value for state in JobState] == [
        "available",
        "executing",
        "retryable",
        "completed",
        "discarded",
        "cancelled",
    ]
    for state in JobState:
        assert state == state.value
        assert JobState(state.value) is state


def test_active_and_terminal_are_all_states() -> None:
    assert {"completed", "discarded", "cancelled"} == TERMINAL
    assert {"available", "executing", "retryable"} == ACTIVE


def test_an_event_in_a_state_has_one_move_at_most() -> None:
    pairs = [(move.source, move.event) for move in MOVES]
    assert len(pairs) == len(set(pairs))


def test_every_event_and_every_state_has_a_move() -> None:
    assert {move.event for move in MOVES} == set(Event)
    assert {move.target for move in MOVES} == set(JobState)


def test_only_an_enqueue_creates_a_job() -> None:
    new = {(move.event, move.target) for move in MOVES if move.source is None}
    assert new == {
        (Event.ENQUEUE, JobState.AVAILABLE),
        (Event.DISPATCH, JobState.EXECUTING),
        (Event.PARENT_FAILED, JobState.CANCELLED),  # the parent had failed before the enqueue
    }


def test_only_a_claim_leads_to_executing_and_costs_an_attempt() -> None:
    for each in MOVES:
        claim = each.event in {Event.CLAIM, Event.DISPATCH}
        assert (each.target is JobState.EXECUTING) == claim
        assert (each.attempt == 1) == claim


def test_only_a_snooze_or_release_gives_the_attempt_back() -> None:
    given_back = {each.event for each in MOVES if each.attempt == -1}
    assert given_back == {Event.SNOOZE, Event.RELEASE, Event.RELEASE_CANCEL}
    assert {each.attempt for each in MOVES} == {-1, 0, 1}


def test_an_attempt_ends_in_every_state_but_executing() -> None:
    targets = {each.target for each in MOVES if each.source is JobState.EXECUTING}
    assert targets == set(JobState) - {JobState.EXECUTING}


def test_terminal_states_are_left_by_an_explicit_retry_only() -> None:
    for each in MOVES:
        if each.source in TERMINAL:
            assert each.target is JobState.AVAILABLE
            assert each.event not in {Event.CLAIM, Event.RETRY, Event.SNOOZE, Event.RELEASE}


def test_a_move_is_looked_up_by_state_and_event() -> None:
    found = move(JobState.EXECUTING, Event.SNOOZE)
    assert (found.target, found.attempt) == (JobState.AVAILABLE, -1)
    for source, event in (
        (JobState.COMPLETED, Event.CLAIM),
        (JobState.AVAILABLE, Event.COMPLETE),
        (None, Event.CLAIM),
    ):
        with pytest.raises(LookupError, match=str(event)):
            move(source, event)
