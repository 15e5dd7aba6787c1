"""Fetches some URLs every five minutes, and texts once when one goes down and once when it is back.

WATCHDOG_URLS: the URLs, with white space or commas between. WATCHDOG_CONTACT: whom to tell, `me` by default.
"""

import asyncio
import os
import urllib.error
import urllib.request
from datetime import datetime, timedelta

from pydantic import BaseModel

from wakeloop import Context, Retry, agent, every, step

URLS = tuple(os.environ.get("WATCHDOG_URLS", "").replace(",", " ").split())
CONTACT = os.environ.get("WATCHDOG_CONTACT", "me")
TIMEOUT_SECONDS = 10


class Watch(BaseModel):
    """What the session remembers: which URLs are down, and since when."""

    down: dict[str, datetime] = {}


@step(retries=2, backoff=Retry(first=10, unless=(ValueError,)), timeout=3 * TIMEOUT_SECONDS)
def fetch(url: str) -> int:
    """The status that the URL answers with. Raises OSError if there is no answer, or it is an error."""
    request = urllib.request.Request(url, headers={"User-Agent": "wakeloop watchdog"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        return int(answer.status)


async def problem_with(url: str) -> str | None:
    """Why the URL counts as down, after all attempts; None if it is up."""
    try:
        await fetch(url)
    except (OSError, ValueError) as error:
        return f"{error}" or type(error).__name__
    return None


@agent(every(timedelta(minutes=5), misfire="skip"), state=Watch)
async def watchdog(ctx: Context[Watch]) -> str:
    """Tell when a URL goes down, and when it is back."""
    for url in [url for url in ctx.state.down if url not in URLS]:
        del ctx.state.down[url]
    problems = await asyncio.gather(*(problem_with(url) for url in URLS))
    for url, problem in zip(URLS, problems, strict=True):
        since = ctx.state.down.get(url)
        if problem is not None and since is None:
            ctx.state.down[url] = ctx.now()
            await ctx.send(CONTACT, f"{url} is down: {problem}")
        elif problem is None and since is not None:
            del ctx.state.down[url]
            minutes = round((ctx.now() - since).total_seconds() / 60)
            await ctx.send(CONTACT, f"{url} is back after {minutes} minutes")
    return f"{len(ctx.state.down)} of {len(URLS)} down"
