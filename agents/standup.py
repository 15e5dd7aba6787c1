"""Asks on weekday mornings what comes first, and comes back to it before five.

STANDUP_CONTACT: the contact to ask, `me` by default. STANDUP_TZ: the zone of their working day, UTC by default.
"""

import os
from datetime import timedelta
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from wakeloop import Context, NoAnswer, agent, cron, on_message

CONTACT = os.environ.get("STANDUP_CONTACT", "me")
TZ = os.environ.get("STANDUP_TZ", "UTC")


class Standup(BaseModel):
    """What the session remembers: the days on which there was an answer, and the latest."""

    days: int = 0
    focus: str = ""


@agent(cron("0 9 * * MON-FRI", tz=TZ), on_message(contact=CONTACT, key="default"), state=Standup)
async def standup(ctx: Context[Standup]) -> str:
    """Ask what comes first, then check back before five."""
    last = f" Last time it was '{ctx.state.focus}'." if ctx.state.focus else ""
    try:
        answer = await ctx.ask(CONTACT, f"What comes first today?{last}", timeout=timedelta(hours=2))
    except NoAnswer:
        return "no answer"
    ctx.state.days += 1
    ctx.state.focus = answer.text
    evening = ctx.now().astimezone(ZoneInfo(TZ)).replace(hour=16, minute=45, second=0, microsecond=0)
    if ctx.now() < evening:
        await ctx.sleep_until(evening)
        await ctx.send(CONTACT, f"Is '{answer.text}' done?")
    return answer.text
