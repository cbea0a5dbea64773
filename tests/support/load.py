"""A load generator for a process of its own: `python -m tests.support.load PORT RATE SECONDS FILE…`, JSON on stdout.

Open loop: a request is sent when its time has come, whatever became of those before it, each on a connection of its
own; its seconds count from that time on.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

MOST_OPEN = 5_000


async def ask(port: int, body: bytes, due: float, health: bool) -> dict[str, Any]:
    """One request; status 0 stands for a connection that broke."""
    outcome: dict[str, Any] = {"due": due, "status": 0, "health": health}
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        line = "GET /healthz" if health else "POST /predict?top=1"
        head = f"{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answered = await asyncio.wait_for(reader.read(-1), 30)
        writer.close()
        head, _, text = answered.decode().partition("\r\n\r\n")
        outcome |= {"status": int(head.split()[1]), "retry": "\nretry-after:" in head.lower(), "body": text}
    except (OSError, TimeoutError, IndexError, ValueError) as error:
        outcome["error"] = repr(error)
    return outcome | {"seconds": time.perf_counter() - due}


async def run(port: int, rate: float, seconds: float, bodies: list[bytes]) -> list[dict[str, Any]]:
    """Every twentieth request asks for the health instead."""
    began, tasks = time.perf_counter() + 0.1, []
    for number in range(round(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        health = number % 20 == 19
        body = b"" if health else bodies[number % len(bodies)]
        tasks.append(asyncio.create_task(ask(port, body, due, health)))
        if number % 100 == 0:
            assert sum(not task.done() for task in tasks) < MOST_OPEN, "the generator itself is overloaded"
    answers = [await task for task in tasks]
    return [{**outcome, "number": number, "due": outcome["due"] - began} for number, outcome in enumerate(answers)]


if __name__ == "__main__":
    port, rate, seconds, *files = sys.argv[1:]
    bodies = [Path(file).read_bytes() for file in files]
    print(json.dumps(asyncio.run(run(int(port), float(rate), float(seconds), bodies))))
