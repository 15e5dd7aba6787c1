"""The demo's agent: it asks Alice what comes first, remembers it, and checks back at a time of its own."""

import os
from datetime import timedelta

from pydantic import BaseModel

from wakeloop import Context, agent, cron, step


class Standup(BaseModel):
    days: int = 0
    focus: str = ""


@step(retries=3)
async def open_issues(repo: str) -> list[str]:
    """Stands for a call of an issue tracker."""
    return [f"{repo}#17 billing bug", f"{repo}#21 slow login"]


@agent(cron(os.environ.get("DEMO_CRON", "0 9 * * MON-FRI")), state=Standup)
async def standup(ctx: Context[Standup]) -> str:
    """Ask what comes first, sleep, and ask whether it is done."""
    issues = await open_issues("acme/api")
    answer = await ctx.ask(
        "alice", f"{len(issues)} open issues. What comes first?", timeout=timedelta(hours=2)
    )
    ctx.state.days += 1
    ctx.state.focus = answer.text
    await ctx.sleep_until(ctx.now() + timedelta(seconds=float(os.environ.get("DEMO_SLEEP", "28800"))))
    await ctx.send("alice", f"Day {ctx.state.days}: is '{answer.text}' done?")
    return answer.text
