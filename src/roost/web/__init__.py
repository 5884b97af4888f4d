"""Serve a worker's health and metrics over HTTP; needs the extra ``http``.

    app.mount("/worker", roost.web.probes(worker))

or, in a program without a web application:

    async with roost.web.serving(worker, "127.0.0.1:8080"):
        await worker.run()
"""

from roost.web.address import Address, parse_address
from roost.web.probes import probes
from roost.web.server import address_of, bind, serving, serving_on

__all__ = ["Address", "address_of", "bind", "parse_address", "probes", "serving", "serving_on"]
