"""psycopg 3 for threads: blocking connections whose waits end at a deadline."""

from roost._drivers.psycopg_sync.adapter import SyncConnection as SyncConnection
from roost._drivers.psycopg_sync.adapter import connect as connect
from roost._drivers.psycopg_sync.driver import PsycopgSyncDriver as PsycopgSyncDriver
