"""Makes the pictures of docs/flower.md from a real run: what docker-compose.yml starts, agents at work, and Flower in
Chromium.

    python docs/screenshots.py

It runs from a checkout whose `make setup browser` has been run, starts everything on loopback, and writes docs/images/.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = Path(__file__).parent / "images"
sys.path.insert(0, str(ROOT))

from tests.acceptance.compose_kit import Compose  # noqa: E402

from wakeloop.testing.twilio import TwilioStandIn  # noqa: E402

ALICE = "+14155550100"
LIMIT_BYTES = 150_000
PATIENCE_SECONDS = 60

AGENTS = """
from datetime import timedelta

from wakeloop import Context, agent, step


@step
async def look_up(invoice: str) -> int:
    if invoice == "INV-9":
        raise LookupError("there is no INV-9")
    return 120


@agent()
async def standup(ctx: Context[None]) -> str:
    answer = await ctx.ask("alice", "What comes first today?")
    await ctx.sleep(timedelta(seconds=3))
    await ctx.send("alice", f"Is '{answer.text}' done?")
    return answer.text


@agent()
async def invoices(ctx: Context[None]) -> int:
    total = await look_up(ctx.event.input)
    await ctx.sleep(timedelta(seconds=2))
    return total
"""

SETTINGS = """
[contacts.alice]
sms = "{alice}"

[channels.sms]
account_sid = "{sid}"
from_number = "{number}"
api_url = "{url}"
"""


def work(compose: Compose, twilio: TwilioStandIn) -> None:
    """Let the agents do something of every kind: ask, sleep, deliver, fail, be tried again."""
    for invoice in ("INV-7", "INV-8", "INV-9"):
        compose.run("web", "wakeloop", "start", "invoices", "--key", invoice, "--input", f'"{invoice}"')
    compose.run("web", "wakeloop", "start", "standup")
    question = twilio.wait_for(1, to=ALICE, timeout=PATIENCE_SECONDS)[0]
    twilio.reply("the billing bug", from_=question.to)
    failed = compose.run("web", "wakeloop", "runs", "--status", "failed", "--json")
    compose.run("web", "wakeloop", "retry", failed.split('"id": "')[1].split('"')[0])
    twilio.wait_for(2, to=ALICE, timeout=PATIENCE_SECONDS)
    time.sleep(3)  # Flower is told of the end of a turn a moment later


def shoot(browser: Browser, address: str, login: tuple[str, str]) -> None:
    """Write the pictures."""
    user, password = login
    page = browser.new_page(
        viewport={"width": 1540, "height": 620}, http_credentials={"username": user, "password": password}
    )
    page.goto(f"{address}/workers")
    page.wait_for_selector("text=worker@worker-3")
    save(page, "flower-workers.png")
    page.goto(f"{address}/tasks")
    page.wait_for_selector("text=wakeloop.agents.standup")
    save(page, "flower-tasks.png")
    row = page.locator("tr", has_text="wakeloop.agents.invoices").filter(has_text="FAILURE").first
    detail = row.locator("a[href*='/task/']").get_attribute("href")
    page.goto(f"{address}{detail}")
    page.wait_for_selector("text=invoices/INV-9")
    save(page, "flower-task.png")


def save(page: Page, name: str) -> None:
    """Write one picture, and refuse one that is too large for a repository."""
    file = IMAGES / name
    page.screenshot(path=file)
    if file.stat().st_size > LIMIT_BYTES:
        raise SystemExit(f"{file} has {file.stat().st_size:,} bytes; at most {LIMIT_BYTES:,} are wanted")
    print(file.relative_to(ROOT), f"{file.stat().st_size:,} bytes")


def main() -> None:
    """Start, work, shoot, stop."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("there is no chromium: `make browser` installs it")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wakeloop-screenshots-") as name, TwilioStandIn() as twilio:
        folder = Path(name)
        (folder / "agents").mkdir()
        (folder / "agents" / "two.py").write_text(AGENTS)
        (folder / "wakeloop.toml").write_text(
            SETTINGS.format(alice=ALICE, sid=twilio.account_sid, number=twilio.number, url=twilio.url)
        )
        (folder / ".env").write_text(
            "POSTGRES_PASSWORD=one\nREDIS_PASSWORD=two\nWAKELOOP_SECRET_KEYS=three\nFLOWER_BASIC_AUTH=ops:four\n"
            f"WAKELOOP_PUBLIC_URL=https://agents.example.com\nWAKELOOP_SMS_AUTH_TOKEN={twilio.auth_token}\n"
            "WAKELOOP_COALESCE_SECONDS=0\n"
        )
        with Compose(ROOT / "docker-compose.yml", folder) as compose:
            twilio.webhook = f"http://127.0.0.1:{compose.ports['8080']}/webhooks/sms"
            twilio.signed_url = "https://agents.example.com/webhooks/sms"
            compose.up()
            compose.scale("worker", 3)
            work(compose, twilio)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
                )
                shoot(browser, f"http://127.0.0.1:{compose.ports['5555']}", ("ops", "four"))
                browser.close()


if __name__ == "__main__":
    main()
