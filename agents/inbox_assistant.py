"""Drafts a reply to each message that comes in, and sends it once a person has agreed to its words.

A program that watches an inbox (of a social network, a shop, a help desk) publishes a signal for each message:

    wakeloop signal inbox.message --data '{"id": "42", "sender": "Robin", "text": "Are you hiring?"}'

INBOX_DRAFT_URL: takes {"sender", "text", "wishes"} by POST and answers {"draft": "…"}: your model, behind HTTP.
INBOX_SEND_URL: takes {"id", "sender", "reply"} by POST once the reply is approved.
INBOX_CONTACT: whose approval it needs, `me` by default.
"""

import json
import os
import urllib.request
from typing import Any

from pydantic import BaseModel

from wakeloop import ApprovalExpired, Context, Denied, Retry, agent, on_signal, require_approval, step

DRAFT_URL = os.environ.get("INBOX_DRAFT_URL", "")
SEND_URL = os.environ.get("INBOX_SEND_URL", "")
CONTACT = os.environ.get("INBOX_CONTACT", "me")
TIMEOUT_SECONDS = 60
DAY_SECONDS = 86_400.0
MOST_DRAFTS = 5
REASONS = ["not relevant", "rewrite shorter", "rewrite friendlier"]


class Incoming(BaseModel):
    """A message in the inbox."""

    id: str
    sender: str
    text: str


def post(url: str, body: dict[str, Any]) -> Any:
    """What the URL answers to a POST of this JSON. Raises OSError if there is no answer, or it is an error."""
    headers = {"Content-Type": "application/json", "User-Agent": "wakeloop inbox_assistant"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        return json.loads(answer.read() or b"null")


@step(retries=3, backoff=Retry(first=10, unless=(ValueError,)))
def draft(message: Incoming, wishes: list[str]) -> str:
    """A reply to the message that takes the wishes into account."""
    body = {"sender": message.sender, "text": message.text, "wishes": wishes}
    return str(post(DRAFT_URL, body)["draft"])


@require_approval(CONTACT, reject_options=REASONS, timeout=DAY_SECONDS)
def send_reply(id: str, sender: str, text: str, reply: str) -> None:
    """Send the reply; the person who approves it sees the message that it answers."""
    post(SEND_URL, {"id": id, "sender": sender, "reply": reply})


@agent(on_signal("inbox.message", key="{id}"))
async def inbox_assistant(ctx: Context[None]) -> str:
    """Draft, ask, and draft again for as long as the person wishes for something else."""
    message = Incoming.model_validate(ctx.event.data)
    wishes: list[str] = []
    while len(wishes) < MOST_DRAFTS:
        reply = await draft(message, wishes)
        try:
            await send_reply(message.id, message.sender, message.text, reply)
        except ApprovalExpired:
            return "nobody decided"
        except Denied as no:
            if not no.comment and not (no.option or "").startswith("rewrite"):
                return f"left unanswered: {no.option or 'denied'}"
            wishes.append(no.comment or str(no.option).removeprefix("rewrite "))
        else:
            return f"sent after {len(wishes) + 1} drafts" if wishes else "sent"
    return f"given up after {MOST_DRAFTS} drafts"
