"""Questions and approvals from any program: `Client` blocks, `AsyncClient` is awaited.

What is done is written once, as plans (`plans`) that ask for calls and pauses; the two clients carry them out.
"""

from wakeloop.client.aio import AsyncClient
from wakeloop.client.sync import Client
from wakeloop.client.tools import tool_name
from wakeloop.client.wire import Request, Run, Session

__all__ = ["AsyncClient", "Client", "Request", "Run", "Session", "tool_name"]
