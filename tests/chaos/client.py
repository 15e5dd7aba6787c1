"""The program that starts the runs: a process of its own, without wakeloop in it, that may be killed at any moment.

It reads what to send, a line of JSON each, and how far it may go from a file that grows; it notes what was taken, once it
was told so. Started again, it sends what it had not noted: of that, some may have been taken before.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

THREADS = 6
TRY_AGAIN_SECONDS = 0.1
LOOK_SECONDS = 0.05
TIMEOUT_SECONDS = 30.0


class Client:
    """Sends the calls of a plan, several at a time."""

    def __init__(self, plan: Path, pace: Path, taken: Path, port: int, token: str) -> None:
        self._calls = plan.read_text().splitlines()
        self._pace, self._port, self._token = pace, port, token
        noted = taken.read_text().splitlines() if taken.exists() else []
        done = {int(line.split()[0]) for line in noted}
        self._left = iter([number for number in range(len(self._calls)) if number not in done])
        self._notes = os.open(taken, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._lock = threading.Lock()

    def run(self) -> None:
        """Send everything that is not noted yet."""
        threads = [threading.Thread(target=self._send_all) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _send_all(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_SECONDS)
        for number in self._mine():
            call = json.loads(self._calls[number])
            while (status := self._send(connection, call)) >= 500:
                time.sleep(TRY_AGAIN_SECONDS)
            os.write(self._notes, f"{number} {status}\n".encode())

    def _mine(self) -> Iterator[int]:
        while True:
            with self._lock:
                number = next(self._left, None)
                if number is None:
                    return
                while number >= self._allowed():
                    time.sleep(LOOK_SECONDS)
            yield number

    def _allowed(self) -> int:
        return int(self._pace.read_text())

    def _send(self, connection: http.client.HTTPConnection, call: dict[str, str]) -> int:
        """The status of the answer; 599 if there is none."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": call["content_type"]}
        try:
            connection.request("POST", call["path"], call["body"].encode(), headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return 599
        return answer.status


def main() -> None:
    """Take the arguments as they come: plan, pace, taken, port, token."""
    plan, pace, taken, port, token = sys.argv[1:]
    Client(Path(plan), Path(pace), Path(taken), int(port), token).run()


if __name__ == "__main__":
    main()
