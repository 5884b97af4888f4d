"""A short script for each mutant: with the mutant the machine fails, without it it passes.

Each was drawn by the search, and then made as short as it can be.
"""

from __future__ import annotations

from collections.abc import Callable

from property_tests.lanes import mutants
from property_tests.lanes.faults import CLAIMS, HEARTBEATS, MAINTENANCE, WORK
from property_tests.lanes.inserting import WAYS
from property_tests.lanes.world import Settings
from property_tests.machines.lanes import Lanes, Story

ONE = Settings(concurrency=1, prefetch=0, grace=0.5)
TWO = Settings(concurrency=2, prefetch=None, grace=0.5)


def a_claim_is_answered_after_its_row_was_lost(lanes: Lanes) -> None:
    lanes.begin(0, TWO, None)
    story = Story("gated", event="lose row", lasts=6.0)
    lanes.calls_fail(0, "answered late", CLAIMS, story)


def a_job_is_added_while_the_worker_is_deaf(lanes: Lanes) -> None:
    lanes.begin(0, TWO, None)
    lanes.a_connection_is_lost(0, "deaf", Story("gated", check=True))


def a_job_is_slow_to_end_when_its_worker_is_cut_off(lanes: Lanes) -> None:
    lanes.begin(0, ONE, ONE)
    lanes.enqueue("slow to end", 1, 0.3)
    number = [worker.name for worker in lanes.world.living()].index(
        lanes.world.diary.running[0].worker
    )
    lanes.calls_fail(number, "late", HEARTBEATS, Story("quick", lasts=6.0))


def a_worker_stops_while_a_thread_runs(lanes: Lanes) -> None:
    lanes.begin(0, ONE, None)
    lanes.enqueue("thread", 1, 0.3)
    lanes.stop_a_worker(0, 2.6)


def a_hook_is_slow_before_a_rated_job(lanes: Lanes) -> None:
    lanes.begin(0, TWO, None)
    lanes.hooks_take(3.0)
    lanes.enqueue("rated", 5, 2.6)
    lanes.time_passes(2.5)
    lanes.hooks_take(0.0)


def a_row_is_lost_while_a_thread_runs(lanes: Lanes) -> None:
    lanes.begin(0, TWO, None)
    lanes.enqueue("thread", 1, 0.3)
    lanes.lose_a_row(0, 2.6)
    lanes.time_passes(30.0)


def everything_but_the_heartbeat_takes_long(lanes: Lanes) -> None:
    lanes.begin(0, TWO, None)
    lanes.enqueue("gated", 1, 2.6)
    lanes.calls_take_long(0, WORK, Story("gated", event="open gates", lasts=6.0))


def a_job_is_cancelled_while_maintenance_takes_long(lanes: Lanes) -> None:
    lanes.begin(0, TWO, None)
    lanes.time_passes(2.5)
    lanes.calls_take_long(0, MAINTENANCE, Story("gated", after=0.3, event="cancel", lasts=6.0))


def a_job_is_dispatched_to_a_worker_that_is_cut_off(lanes: Lanes) -> None:
    lanes.begin(0, TWO, TWO)
    lanes.time_passes(2.5)
    for number in (0, 1):
        lanes.a_connection_is_lost(number, "cut off", Story("gated", lasts=3.0, check=True))


def a_queue_is_paused_while_a_claim_is_answered_late(lanes: Lanes) -> None:
    lanes.begin(0, TWO, None)
    story = Story("gated", event="pause", lasts=2.0)
    lanes.calls_fail(0, "answered late", CLAIMS, story)


def a_queue_is_paused_while_a_hook_runs(lanes: Lanes) -> None:
    lanes.begin(0, TWO, None)
    lanes.hooks_take(3.0)
    lanes.enqueue("gated", 2, 0.3)
    lanes.pause_the_queue(2.6)
    lanes.time_passes(2.5)


def several_limited_jobs_meet_one_slot(lanes: Lanes) -> None:
    lanes.begin(0, ONE, None)
    lanes.enqueue("narrow", 5, 0.3)


def one_queue_has_more_jobs_than_slots(lanes: Lanes) -> None:
    lanes.begin(0, Settings(concurrency=2, prefetch=0, grace=0.5, slots=(1, 1)), None)
    lanes.enqueue("gated", 2, 0.3)
    lanes.enqueue("gated", 2, 2.6, "other")


def a_worker_with_limited_jobs_stops(lanes: Lanes) -> None:
    lanes.begin(0, Settings(concurrency=3, prefetch=0, grace=2.0), None)
    lanes.enqueue("narrow", 5, 0.3)
    lanes.start_a_worker(TWO, 2.6)
    lanes.stop_a_worker(0, 0.3)
    lanes.open_gates([0, 1, 2], 0.3)
    lanes.time_passes(2.5)


def a_producer_has_a_long_transaction(lanes: Lanes) -> None:
    lanes.begin(0, TWO, None)
    for way in WAYS:
        lanes.enqueue_in_a_long_transaction(way, "quick", 0.3)


def a_limited_job_stands_behind_others(lanes: Lanes) -> None:
    """The search found this one: the limited job waited for the next poll (November 2026)."""
    lanes.begin(0, ONE, None)
    lanes.stop_a_worker(0, 2.6)
    lanes.enqueue("gated", 2, 0.3)
    lanes.enqueue("narrow", 1, 0.3)


SCRIPTS: dict[mutants.Mutant, Callable[[Lanes], None]] = {
    mutants.start_under_an_earlier_incarnation: a_claim_is_answered_after_its_row_was_lost,
    mutants.no_wake_after_a_reconnect: a_job_is_added_while_the_worker_is_deaf,
    mutants.no_unwinding_margin: a_job_is_slow_to_end_when_its_worker_is_cut_off,
    mutants.row_removed_though_threads_run: a_worker_stops_while_a_thread_runs,
    mutants.no_start_delay: a_hook_is_slow_before_a_rated_job,
    mutants.slots_by_job_id: a_row_is_lost_while_a_thread_runs,
    mutants.heartbeat_on_the_shared_pool: everything_but_the_heartbeat_takes_long,
    mutants.maintenance_without_a_bound: a_job_is_cancelled_while_maintenance_takes_long,
    mutants.cancels_are_read_as_maintenance: a_job_is_cancelled_while_maintenance_takes_long,
    mutants.unaccepted_jobs_are_not_taken_over: a_job_is_dispatched_to_a_worker_that_is_cut_off,
    mutants.pauses_do_not_stop_starts: a_queue_is_paused_while_a_claim_is_answered_late,
    mutants.paused_during_a_hook: a_queue_is_paused_while_a_hook_runs,
    mutants.limited_jobs_are_prefetched: several_limited_jobs_meet_one_slot,
    mutants.queues_use_slots_of_others: one_queue_has_more_jobs_than_slots,
    mutants.room_wakes_no_worker: a_worker_with_limited_jobs_stops,
}
