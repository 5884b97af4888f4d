"""The driver for asyncio, uvloop and trio: psycopg 3 with every wait made by anyio."""

from roost._drivers.psycopg_anyio.driver import PsycopgDriver as PsycopgDriver
