"""What the user looks at: the section and the rows that are selected, and what is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import TypeAlias

import attrs

from roost.cli.top.snapshot import Snapshot

Key: TypeAlias = str | int
"""What a row is about: a queue's name, or a job's id."""


class Section(Enum):
    """A list of rows; the value is its title."""

    QUEUES = "QUEUES"
    RUNNING = "RUNNING"
    FAILURES = "FAILURES"


class Action(Enum):
    """What a key does with the selected row; the value is the verb in the question."""

    PAUSE = "pause queue"
    RESUME = "resume queue"
    CANCEL = "cancel job"
    RETRY = "retry job"


@attrs.frozen
class Question:
    """An action that waits for the user's yes."""

    action: Action
    key: Key


@attrs.define
class View:
    """The state of the screen. It changes by keys and readings only, with no wait.

    :ivar cut_off_since: since when the database has not answered; ``None``: it answers.
    :ivar ended: whether the user wants to leave, or the view can't go on.
    :ivar crash: why it can't go on; ``None``: it can.
    """

    source: str
    interval: float
    snapshot: Snapshot | None = None
    section: Section = Section.QUEUES
    selected: dict[Section, Key] = attrs.field(factory=dict)
    question: Question | None = None
    message: str = ""
    cut_off_since: datetime | None = None
    error: str = ""
    ended: bool = False
    crash: Exception | None = None

    def keys(self) -> Mapping[Section, Sequence[Key]]:
        """Return what the rows of each section are about, in their order."""
        shown = self.snapshot
        if shown is None:
            return dict.fromkeys(Section, ())
        return {
            Section.QUEUES: [queue.name for queue in shown.overview.queues],
            Section.RUNNING: [job.id for job in shown.running],
            Section.FAILURES: [job.id for job in shown.failed],
        }

    def index(self, section: Section) -> int:
        """Return the place of the selected row; the first, if it is gone."""
        keys = self.keys()[section]
        chosen = self.selected.get(section)
        return keys.index(chosen) if chosen in keys else 0

    def record_reading(self, snapshot: Snapshot) -> None:
        """Show a new reading."""
        self.snapshot = snapshot
        self.cut_off_since = None
        self.error = ""

    def record_failure(self, error: str, at: datetime) -> None:
        """Keep the last reading on the screen, and say since when it is old."""
        self.cut_off_since = self.cut_off_since or at
        self.error = error

    def press(self, key: str) -> Question | None:
        """Do what a key means; return an action that the user has confirmed."""
        if self.question is not None:
            question, self.question = self.question, None
            return question if key in ("y", "Y") else None
        self.message = ""
        match key:
            case "q" | "Q" | "escape":
                self.ended = True
            case "tab" | "right":
                self._turn(1)
            case "backtab" | "left":
                self._turn(-1)
            case "down" | "j":
                self._move(1)
            case "up" | "k":
                self._move(-1)
            case "p" | "c" | "r":
                self.question = self._question(key)
        return None

    def _turn(self, step: int) -> None:
        sections = list(Section)
        self.section = sections[(sections.index(self.section) + step) % len(sections)]

    def _move(self, step: int) -> None:
        keys = self.keys()[self.section]
        if keys:
            index = min(max(self.index(self.section) + step, 0), len(keys) - 1)
            self.selected[self.section] = keys[index]

    def _question(self, key: str) -> Question | None:
        """Return what to ask before a key's action; it is about the section that has such rows."""
        section = {"p": Section.QUEUES, "c": Section.RUNNING, "r": Section.FAILURES}[key]
        keys = self.keys()[section]
        if not keys:
            self.message = f"nothing is in {section.value.lower()}"
            return None
        if section is not self.section:
            self.section = section
            self.message = f"select a row in {section.value.lower()}, then {key} again"
            return None
        index = self.index(section)
        self.selected[section] = keys[index]
        if section is Section.QUEUES:
            assert self.snapshot is not None, "it has rows"  # noqa: S101
            paused = self.snapshot.overview.queues[index].paused_at is not None
            return Question(Action.RESUME if paused else Action.PAUSE, keys[index])
        action = Action.CANCEL if section is Section.RUNNING else Action.RETRY
        return Question(action, keys[index])
