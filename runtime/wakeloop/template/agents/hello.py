"""A first agent: it asks what matters today, remembers the answer, sleeps, and asks how it went."""

from datetime import timedelta

from pydantic import BaseModel

from wakeloop import Context, NoAnswer, agent, cron, on_message, step


class Memory(BaseModel):
    """What a session remembers between its runs."""

    goals: list[str] = []


@step(retries=3)
async def look_up_weather(city: str) -> str:
    """A step is where real work happens; once it has a result, it is never done again."""
    return f"sunny in {city}"


@agent(cron("0 9 * * MON-FRI", tz="UTC"), on_message(key="default"), state=Memory)
async def hello(ctx: Context[Memory]) -> str:
    """Ask what matters today, and come back to it a minute later."""
    weather = await look_up_weather("Paris")
    last = f" Last time it was “{ctx.state.goals[-1]}”." if ctx.state.goals else ""
    try:
        answer = await ctx.ask(
            "me", f"It is {weather}. What matters today?{last}", timeout=timedelta(hours=8)
        )
    except NoAnswer:
        return "nobody was there"
    ctx.state.goals.append(answer.text)
    await ctx.send("me", f"Noted: “{answer.text}”. I will be back in a minute.")
    await ctx.sleep(timedelta(minutes=1))  # no process is needed meanwhile; try Ctrl-C and `wakeloop dev`
    how = await ctx.ask("me", f"How is “{answer.text}” going?", timeout=timedelta(hours=8))
    await ctx.send("me", "Good to hear. Until next time!")
    return how.text
