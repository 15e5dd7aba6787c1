"""The program that starts the runs: a process of its own, without wakeloop in it, that may be killed at any moment.

It reads what to send, a line of JSON each, and how far it may go from a file that grows; it notes what was taken, once it
was told so. Started again, it goes on after the last that it noted: what it had sent and not noted is sent again.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from pathlib import Path

TRY_AGAIN_SECONDS = 0.1
LOOK_SECONDS = 0.02
TIMEOUT_SECONDS = 15.0


def main() -> None:
    """Send everything of the plan, in its order."""
    plan, pace, taken, port, token = sys.argv[1:]
    lines = Path(plan).read_text().splitlines()
    done = len(Path(taken).read_text().splitlines()) if Path(taken).exists() else 0
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_SECONDS)
    notes = os.open(taken, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for number in range(done, len(lines)):
        while number >= _allowed(Path(pace)):
            time.sleep(LOOK_SECONDS)
        call = json.loads(lines[number])
        while (status := _send(connection, call, token)) >= 500:
            time.sleep(TRY_AGAIN_SECONDS)
        os.write(notes, f"{number} {status}\n".encode())


def _allowed(pace: Path) -> int:
    text = pace.read_text()
    return int(text) if text.endswith("\n") else 0


def _send(connection: http.client.HTTPConnection, call: dict[str, str], token: str) -> int:
    """The status of the answer; 599 if there is none."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": call["content_type"]}
    try:
        connection.request("POST", call["path"], call["body"].encode(), headers)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return 599
    return answer.status


if __name__ == "__main__":
    main()
