"""The driver for asyncio and uvloop on asyncpg. Only this package imports asyncpg and asyncio."""

from roost._drivers.asyncpg.driver import AsyncpgDriver as AsyncpgDriver
