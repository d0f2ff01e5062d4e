"""A web application that hands its work to a pool: the event loop goes on answering, and a crash of the work is one error page.

    python web_endpoint.py               asks itself a few things, and checks the answers
    uvicorn web_endpoint:application     serves them

Needs starlette (and httpx, to ask itself): pip install starlette httpx. FastAPI is built on it: the same lines work there.
The pool could be shared with other programs, too: shmq.Executor(0, name="pages"), and `shmq worker pages` in another terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import shmq


def primes_below(number: int) -> int:
    """Work that would keep an event loop from everybody else."""
    if number == 13:
        os._exit(1)  # as a bug in a C extension would
    sieve = bytearray([1]) * number
    for candidate in range(2, int(number**0.5) + 1):
        sieve[candidate * candidate :: candidate] = bytes(len(sieve[candidate * candidate :: candidate]))
    return sum(sieve[2:])


@contextlib.asynccontextmanager
async def lifespan(application: Starlette) -> AsyncIterator[None]:
    with shmq.Executor(2, max_deliveries=1) as pool:
        application.state.pool = pool
        yield


async def primes(request: Request) -> JSONResponse:
    loop = asyncio.get_running_loop()
    try:
        count = await loop.run_in_executor(request.app.state.pool, primes_below, int(request.path_params["number"]))
    except shmq.WorkerLost as error:
        return JSONResponse({"error": str(error)}, status_code=500)
    return JSONResponse({"primes": count})


application = Starlette(routes=[Route("/primes/{number:int}", primes)], lifespan=lifespan)


def main() -> int:
    from starlette.testclient import TestClient

    with TestClient(application) as client:
        answers = [client.get(f"/primes/{number}") for number in (10, 1_000_000, 13, 100)]
    for answer in answers:
        print(answer.url.path, answer.status_code, answer.json())
    found = [answer.json().get("primes") for answer in answers]
    return 0 if found == [4, 78498, None, 25] and answers[2].status_code == 500 else 1


if __name__ == "__main__":
    sys.exit(main())
