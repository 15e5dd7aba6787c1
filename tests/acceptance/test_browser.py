"""The pages in a real Chromium, with agents at work: what people see and press, live and without scripts.

Chromium is Debian's package; `make browser` provides it. Where it is missing these tests fail."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.pages_kit import PagesSite, served
from tests.servers import poll

from wakeloop.store import queries
from wakeloop.views import RequestView, run_view

PATIENCE_SECONDS = 30
PHONE = {"width": 390, "height": 844}
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

AGENTS = """
from typing import Literal

from pydantic import BaseModel, Field

from wakeloop import Context, Denied, agent, on_message, on_signal, require_approval


class Trip(BaseModel):
    city: str = Field(min_length=2, description="Where the team meets.")
    nights: int = Field(ge=1, le=5)
    room: Literal["single", "double"] = "single"
    wifi: bool = False


@require_approval("alice", edit=True, reject_options=["too expensive", "not now"])
async def book(city: str, nights: int) -> str:
    return f"{nights} nights in {city}"


@agent(on_message())
async def chat(ctx: Context[None]) -> None:
    await ctx.send(ctx.event.from_, f"You wrote: {ctx.event.text}")


@agent()
async def planner(ctx: Context[None]) -> dict:
    answer = await ctx.ask("alice", "Where shall we go?", answer=Trip)
    return answer.value.model_dump()


@agent()
async def booker(ctx: Context[None]) -> str:
    try:
        return await book("Oslo", 3)
    except Denied as denied:
        return f"denied: {denied.option}: {denied.comment}"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PagesSite]:
    """A site whose agents run."""
    with served(tmp_path_factory.mktemp("site"), worker=True, agent=AGENTS) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, one for all tests."""
    path = shutil.which("chromium")
    assert path is not None, "there is no chromium: `make browser` installs it"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@contextmanager
def tab(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """A tab of a telephone; in the end no script may have failed, nor anything been refused or said on the console."""
    context = browser.new_context(**{"viewport": PHONE, **options})
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(url)
    yield page
    context.close()
    # Chromium itself remarks that a form was shown again.
    assert [one for one in said if "status of 422" not in one] == []


@pytest.fixture(autouse=True)
def patience() -> None:
    """Two cores may be busy with other tests."""
    expect.set_options(timeout=PATIENCE_SECONDS * 1000)


def result(site: PagesSite, run: str) -> Any:
    """What a run came to."""
    for _ in poll(PATIENCE_SECONDS):
        view = run_of(site, run)
        if view.status not in ("queued", "running", "waiting"):
            assert view.status == "completed", view.error
            return view.result
    raise AssertionError("the run did not end")


def asked(site: PagesSite, run: str) -> RequestView:
    """What a run asks, once it does."""
    for _ in poll(PATIENCE_SECONDS):
        found = [one for one in site.runtime.requests.find(run=UUID(run)) if one.asked]
        if found:
            return found[-1]
    raise AssertionError("the run asked nothing")


def run_of(site: PagesSite, run: str) -> Any:
    """A run as people see it."""
    with site.runtime.database.read() as connection:
        return run_view(queries.find_run(connection, UUID(run)), None)


def test_a_typed_question_is_answered_in_its_form(site: PagesSite, browser: Browser) -> None:
    """The browser holds what does not fit; the agent gets a value of its type."""
    run = site.runtime.intake.start("planner")
    request = asked(site, run)
    with tab(browser, site.url + site.page("alice")) as page:
        card = page.locator(f"#request-{request.id}")
        card.get_by_label("City").fill("Oslo")
        card.get_by_label("Nights").fill("9")
        card.get_by_label("double").check()
        card.get_by_label("Wifi").check()
        card.get_by_role("button", name="Send answer").click()
        assert card.get_by_label("Nights").evaluate("field => field.validity.rangeOverflow")
        card.get_by_label("Nights").fill("2")
        card.get_by_role("button", name="Send answer").click()

        expect(page.locator("#notice")).to_have_text("Thank you. Your answer has been recorded.")
        expect(page).not_to_have_url(re.compile("notice="))  # the page takes it out once it is loaded

    assert result(site, run) == {"city": "Oslo", "nights": 2, "room": "double", "wifi": True}


def test_a_call_is_changed_and_approved(site: PagesSite, browser: Browser) -> None:
    """What runs is what was approved."""
    run = site.runtime.intake.start("booker")
    request = asked(site, run)
    with tab(browser, site.url + site.page("alice")) as page:
        card = page.locator(f"#request-{request.id}")
        expect(card.locator(".arguments").first).to_contain_text("'Oslo'")
        card.get_by_text("Change the arguments, then approve").click()
        card.get_by_label("nights", exact=False).first.fill("1")
        card.get_by_role("button", name="Approve with these changes").click()

        expect(page.locator("#notice")).to_contain_text("Approved")
        expect(page.locator(f"#ended #request-{request.id}")).to_contain_text("Approved by you, with changes")

    assert result(site, run) == "1 nights in Oslo"


def test_a_call_is_denied_with_a_reason_and_a_comment(site: PagesSite, browser: Browser) -> None:
    """The agent is told both; Enter beside the reasons decides nothing."""
    run = site.runtime.intake.start("booker")
    request = asked(site, run)
    with tab(browser, site.url + site.page("alice")) as page:
        card = page.locator(f"#request-{request.id}")
        card.get_by_label("not now").check()
        card.get_by_label("not now").press("Enter")
        card.get_by_label("Comment").first.fill("next week")
        assert site.again(request).status == "open"
        card.get_by_role("button", name="Deny").click()

        expect(page.locator("#notice")).to_contain_text("Denied")

    assert result(site, run) == "denied: not now: next week"


def test_a_second_tab_is_told_without_reloading(site: PagesSite, browser: Browser) -> None:
    """What is new comes in, what is decided goes, and what somebody is writing stays."""
    url = site.url + site.page("bob")
    with tab(browser, url) as first, tab(browser, url) as second:
        second.evaluate("window.same = true")
        request = site.ask("bob", text="Tea or coffee?", options=["tea", "coffee"])
        other = site.ask("bob", text="And a cake?")
        expect(second.locator("#open")).to_contain_text("Tea or coffee?")
        second.locator(f"#request-{other.id} textarea").fill("I am still think")
        first.locator(f"#request-{request.id}").get_by_label("coffee").check()
        first.locator(f"#request-{request.id}").get_by_role("button", name="Send answer").click()

        expect(second.locator(f"#open #request-{request.id}")).to_have_count(0)
        expect(second.locator(f"#ended #request-{request.id}")).to_contain_text("Answered by you")
        expect(second.locator(f"#request-{other.id} textarea")).to_have_value("I am still think")

        first.get_by_label("Write to the agents").fill(f"{other.code} a big one")
        first.get_by_role("button", name="Send", exact=True).click()
        expect(second.locator(f"#request-{other.id} .stale").first).to_contain_text(
            "decided or withdrawn meanwhile"
        )
        expect(second.locator(f"#open #request-{other.id} textarea")).to_have_value("I am still think")
        assert second.evaluate("window.same")


def test_a_conversation_goes_back_and_forth(site: PagesSite, browser: Browser) -> None:
    """What the agent says to it appears by itself."""
    with tab(browser, site.url + site.page("bob")) as page:
        for request in site.runtime.requests.find(status="open", contact="bob"):
            site.post("bob", "answer", request, field__answer="x")
        page.get_by_label("Write to the agents").fill("Good morning <b>all</b>")
        page.get_by_role("button", name="Send", exact=True).click()

        expect(page.locator("#talk .from-you").last).to_contain_text("Good morning <b>all</b>")
        expect(page.locator("#talk .from-agent").last).to_contain_text("You wrote: Good morning <b>all</b>")


def test_without_scripts_a_decision_is_made_all_the_same(site: PagesSite, browser: Browser) -> None:
    """Forms, nothing else."""
    approval = site.ask_approval("bob", args={"amount": 40, "to": "ACME"}, edit=True)
    with tab(browser, site.url + site.page("bob"), java_script_enabled=False) as page:
        card = page.locator(f"#request-{approval.id}")
        card.get_by_text("Change the arguments, then approve").click()
        card.get_by_label("amount").first.press("Enter")
        expect(card).to_contain_text("press the button that you mean")
        assert site.record(approval) == []
        card.get_by_role("button", name="Approve", exact=True).click()

        expect(page.locator("#notice")).to_contain_text("Approved")

    assert site.again(approval).status == "approved"


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(site: PagesSite, browser: Browser, width: int, scheme: str) -> None:
    """Whatever is asked; and what is pressed is large enough for a thumb, the verdicts apart from each other."""
    url = "https://example.com/" + "path" * 60
    approval = site.ask_approval(
        "carol", args={"link": url, "n" * 80: [url] * 9, "lines": f"{url}\n" * 30}, text=url, edit=True
    )
    site.ask("carol", text=url, options=[url, "no"])
    options = {"viewport": {"width": width, "height": 844}, "color_scheme": scheme}
    with tab(browser, site.url + site.page("carol"), **options) as page:
        for folded in page.locator("details").all():
            folded.evaluate("one => one.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        card = page.locator(f"#request-{approval.id}")
        approve = card.get_by_role("button", name="Approve", exact=True).bounding_box()
        deny = card.get_by_role("button", name="Deny").bounding_box()
        assert approve is not None
        assert deny is not None
        assert min(approve["height"], deny["height"]) >= 44
        apart = max(deny["y"] - approve["y"] - approve["height"], deny["x"] - approve["x"] - approve["width"])
        assert apart >= 20
        page.goto(f"{site.url}/requests/{approval.id}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.goto(f"{site.url}/inbox")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.screenshot()
