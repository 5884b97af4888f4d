"""psycopg 3 on anyio, for asyncio, uvloop and trio. Only this package names its modules."""

from roost._drivers.psycopg_anyio.driver import PsycopgDriver as PsycopgDriver
