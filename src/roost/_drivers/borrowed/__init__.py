"""Connections that belong to the caller (``conn=``), who alone begins and ends transactions."""

from roost._drivers.borrowed.kinds import borrow as borrow
from roost._drivers.borrowed.kinds import borrow_sync as borrow_sync
