"""Each unreleased change is one sentence in a file of its own; see changelog.d/README.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "changelog.d"
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\.(added|changed|fixed|removed)\.md")
ANOTHER_SENTENCE = re.compile(r"[.!?] +[A-Z`]")
FRAGMENTS = sorted(file for file in FOLDER.iterdir() if file.name != "README.md")


@pytest.mark.parametrize("file", FRAGMENTS, ids=lambda file: file.name)
def test_a_fragment_is_one_sentence_under_a_fitting_name(file: Path) -> None:
    assert NAME.fullmatch(file.name), "the name is <slug>.<added|changed|fixed|removed>.md"
    text = file.read_text(encoding="utf-8").strip()
    assert text.endswith("."), "a sentence ends in a full stop"
    assert not text.startswith(("-", "*", "#")), "no list, no heading: the sentence alone"
    assert "\n\n" not in text, "one paragraph"
    assert not ANOTHER_SENTENCE.search(text), "one sentence"
