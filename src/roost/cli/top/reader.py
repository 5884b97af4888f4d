"""Reads the database in a thread, so that the screen answers while the database does not."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NoReturn, assert_never

from roost import Roost, RoostError
from roost.cli.top.snapshot import Snapshot, read_snapshot
from roost.cli.top.view import Action, Question, View

PAUSE_TIMEOUT = 5.0
"""Seconds to wait until the workers confirm a pause."""


class Reader:
    """Reads again and again, and does what the user has confirmed.

    :param wake: called after each answer, from the thread.
    """

    def __init__(self, client: Roost, *, interval: float, wake: Callable[[], None]) -> None:
        self._client = client
        self._interval = interval
        self._wake = wake
        self._wanted: queue.SimpleQueue[Question] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Snapshot | Exception | str] = queue.SimpleQueue()
        # A daemon: leaving does not wait for a database that is away.
        threading.Thread(target=self._run, name="roost top", daemon=True).start()

    def do(self, question: Question) -> None:
        """Do an action soon, then read again."""
        self._wanted.put(question)

    def show_answers(self, view: View) -> None:
        """Put what has arrived into the view."""
        while not self._answers.empty():
            answer = self._answers.get()
            if isinstance(answer, Snapshot):
                view.record_reading(answer)
            elif isinstance(answer, RoostError):
                view.record_failure(str(answer), datetime.now(UTC))
            elif isinstance(answer, Exception):
                view.crash, view.ended = answer, True
            else:
                view.message = answer

    def _run(self) -> None:
        """Go on for ever. An error that is not the database's ends the view, with this thread."""
        try:
            self._read_and_act()
        except Exception as error:  # noqa: BLE001  (the main thread reports any of them)
            self._answers.put(error)
            self._wake()

    def _read_and_act(self) -> NoReturn:
        done = None
        while True:
            try:
                self._answers.put(read_snapshot(self._client))
            except RoostError as error:
                self._answers.put(error)
            if done is not None:
                self._answers.put(done)  # together with a reading that shows it
            self._wake()
            done = self._next_action()

    def _next_action(self) -> str | None:
        """Wait for an action until the next reading is due; say what came of it."""
        try:
            question = self._wanted.get(timeout=self._interval)
        except queue.Empty:
            return None
        try:
            return perform(self._client, question)
        except RoostError as error:
            return f"not done: {error}"


def perform(client: Roost, question: Question) -> str:
    """Do an action and say what came of it."""
    key = question.key
    match question.action:
        case Action.PAUSE:
            client.pause_queue(str(key), timeout=PAUSE_TIMEOUT)
            return f"paused queue {key}"
        case Action.RESUME:
            client.resume_queue(str(key))
            return f"resumed queue {key}"
        case Action.CANCEL:
            done = client.cancel(int(key))
            return f"cancelling job {key}" if done else f"job {key} had already ended"
        case Action.RETRY:
            done = client.retry(int(key))
            return f"job {key} is available again" if done else f"job {key} waits or runs already"
        case unknown:
            assert_never(unknown)
