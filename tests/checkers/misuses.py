"""What type checkers are to refuse. Each line says with which error; the gate reports one that is not refused. Not executed."""

from __future__ import annotations

import shmq
import shmq.aio
import shmq.mp


def misspelt(queue: shmq.Queue[int]) -> None:
    shmq.Qeueu("jobs")  # type: ignore[attr-defined]
    shmq.Queue("jobs", slot=16)  # type: ignore[call-arg]
    shmq.Queue("jobs", oversize="spil")  # type: ignore[arg-type]
    shmq.Queue.create("jobs", slot=16)  # type: ignore[call-arg]
    shmq.Queue.create("jobs", slots="16")  # type: ignore[arg-type]
    shmq.Queue.create("jobs", overflow="drop")  # type: ignore[arg-type]
    shmq.Queue.attach("jobs", slots=16)  # type: ignore[call-arg]
    queue.areceive(time_out=1)  # type: ignore[call-arg]
    queue.areceive(extend="yes")  # type: ignore[arg-type]
    queue.receive(lease_time=1)  # type: ignore[call-arg]
    queue.recieve()  # type: ignore[attr-defined]
    queue.receive().acknowledge()  # type: ignore[attr-defined]
    queue.get(timout=1)  # type: ignore[call-arg]


async def of_another_kind(queue: shmq.Queue[int], drop_in: shmq.mp.Queue[int], inner: shmq.aio.Queue[int]) -> str:
    queue.put("x")  # type: ignore[arg-type]
    queue.put_many(["x"])  # type: ignore[list-item]
    await queue.aput("x")  # type: ignore[arg-type]
    drop_in.put("x")  # type: ignore[arg-type]
    await inner.put("x")  # type: ignore[arg-type]
    queue.get().upper()  # type: ignore[attr-defined]
    queue.receive().data.upper()  # type: ignore[attr-defined]
    (await queue.areceive()).data.upper()  # type: ignore[attr-defined]
    return await queue.aget()  # type: ignore[return-value]


def root(number: int, *, digits: int = 3) -> str:
    return f"{number**0.5:.{digits}}"


def tasks(pool: shmq.Executor) -> None:
    pool.submit(root)  # type: ignore[call-arg]
    pool.submit(root, "2")  # type: ignore[arg-type]
    pool.submit(root, 2, digit=5)  # type: ignore[call-arg]
    number: int = pool.submit(root, 2).result()  # type: ignore[assignment]
    print(number)
