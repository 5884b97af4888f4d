"""asyncpg, for asyncio and uvloop. The one package that names asyncpg and a loop."""

from roost._drivers.asyncpg.driver import AsyncpgDriver as AsyncpgDriver
