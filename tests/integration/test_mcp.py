"""`wakeloop mcp` as coding assistants run it: a process on standard input and output, real people behind a real server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult, TextContent
from tests.client_kit import Site, served
from tests.servers import until

WAKELOOP = str(Path(sys.executable).with_name("wakeloop"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A server that runs."""
    with served(tmp_path) as site:
        yield site


def environment(token: str) -> dict[str, str]:
    """What a client is told to run the server with."""
    return {"MY_TOKEN": token} | (
        {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
    )


@asynccontextmanager
async def assistant(site: Site, *options: str, token: str | None = None) -> AsyncIterator[Client]:
    """A client of the process. What that logs goes to a file: standard output is the protocol's."""
    command = ["mcp", "--url", site.url, "--token-env", "MY_TOKEN", *options]
    env = environment(site.token() if token is None else token)
    async with Client(StdioServerParameters(command=WAKELOOP, args=command, env=env)) as client:
        yield client


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    """Run a test's own loop."""

    async def main() -> Any:
        async with asyncio.timeout(60):
            return await work()

    return asyncio.run(main())


def words(result: CallToolResult) -> str:
    """What the model reads."""
    [part] = result.content
    assert isinstance(part, TextContent)
    return part.text


def test_the_tools_say_what_they_do_and_whom_they_reach(site: Site) -> None:
    """Names and descriptions of the people are in the tools' own; addresses are not."""

    async def work() -> None:
        async with assistant(site) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(tools) == {"contact_human", "request_approval", "list_contacts"}
            for name in ("contact_human", "request_approval"):
                about = tools[name].description or ""
                assert "- Alice (alice): Knows the customers\n- Carla (cfo)\n- Tom (cto)" in about
                assert "console" not in about and tools[name].output_schema is not None
            assert set(tools["contact_human"].input_schema["required"]) == {"message"}
            listed = await client.call_tool("list_contacts", {})
            assert (listed.structured_content or {})["contacts"][0]["id"] == "alice"

    run(work)


def test_a_persons_answer_comes_back_with_progress_while_they_think(site: Site) -> None:
    """As words for the model and as data; the client hears that they are waited for, so that it does not give up."""

    async def work() -> None:
        heard: list[str | None] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            heard.append(message)

        async with assistant(site) as client:
            question = {"message": "Which colour?", "contact": "alice", "options": ["red", "blue"]}
            call = asyncio.create_task(
                client.call_tool("contact_human", question, progress_callback=progress)
            )
            asked = await asyncio.to_thread(site.asked)
            assert (asked.text, asked.options) == ("Which colour?", ("red", "blue"))
            await asyncio.to_thread(until, lambda: heard)
            await asyncio.to_thread(site.reply, asked, "2")
            result = await call

        assert not result.is_error and words(result) == "blue"
        facts = result.structured_content or {}
        assert (facts["status"], facts["answer"], facts["by"]) == ("answered", "blue", "alice")
        assert heard[0] == "waiting for alice (0 s)"

    run(work)


def test_a_decision_is_told_in_words_and_as_data(site: Site) -> None:
    """A no is a result, with its comment; only a yes is a yes."""

    async def work() -> None:
        async with assistant(site, "--contact", "cfo") as client:
            action = {"action": "drop the table", "arguments": {"table": "users"}, "reason": "It is empty."}
            no = asyncio.create_task(client.call_tool("request_approval", action))
            asked = await asyncio.to_thread(site.asked)
            assert (asked.to, asked.action, asked.args) == ("cfo", "drop the table", {"table": "users"})
            assert asked.text == "May I drop the table? It is empty."
            await asyncio.to_thread(lambda: site.deny(asked, comment="it is not"))
            denied = await no
            assert words(denied) == "Denied by cfo (it is not). Do not do it." and not denied.is_error
            facts = denied.structured_content or {}
            assert (facts["approved"], facts["status"], facts["comment"]) == (False, "denied", "it is not")

            yes = asyncio.create_task(client.call_tool("request_approval", action))
            asked = await asyncio.to_thread(site.asked)
            await asyncio.to_thread(lambda: site.approve(asked, comment="now it is"))
            approved = await yes
            assert words(approved).startswith("Approved by cfo (now it is).")
            assert (approved.structured_content or {})["approved"] is True

    run(work)


def test_a_call_that_is_cancelled_withdraws_the_question(site: Site) -> None:
    """Nobody answers in vain when the user of the assistant stops it; and so it is when the assistant ends."""

    async def work() -> None:
        async with assistant(site) as client:
            call = asyncio.create_task(
                client.call_tool("contact_human", {"message": "One?", "contact": "alice"})
            )
            await asyncio.to_thread(site.asked)
            call.cancel()
            await asyncio.to_thread(until, lambda: site.all("cancelled"))
            left = asyncio.create_task(
                client.call_tool("contact_human", {"message": "Two?", "contact": "alice"})
            )
            await asyncio.to_thread(site.asked)
        await asyncio.to_thread(until, lambda: len(site.all("cancelled")) == 2)
        await asyncio.wait([left])

    run(work)


def test_a_wait_survives_a_restart_of_the_server_behind_it(site: Site) -> None:
    """The assistant notices nothing."""

    async def work() -> None:
        async with assistant(site) as client:
            call = asyncio.create_task(
                client.call_tool("contact_human", {"message": "Well?", "contact": "alice"})
            )
            asked = await asyncio.to_thread(site.asked)
            await asyncio.to_thread(site.stop)
            await asyncio.sleep(1)
            await asyncio.to_thread(site.start)
            await asyncio.to_thread(site.reply, asked, "Yes.")
            assert words(await call) == "Yes."

    run(work)


def test_what_goes_wrong_is_an_error_of_the_tool_and_the_server_goes_on(site: Site) -> None:
    """An unknown contact, none named, arguments of the wrong type: the model reads why and tries again."""

    async def work() -> None:
        async with assistant(site) as client:
            unknown = await client.call_tool("contact_human", {"message": "Hi?", "contact": "alcie"})
            assert unknown.is_error and "alcie" in words(unknown) and "alice" in words(unknown)
            nobody = await client.call_tool("contact_human", {"message": "Hi?"})
            assert nobody.is_error and "Carla (cfo)" in words(nobody)
            odd = await client.call_tool(
                "request_approval", {"action": "x", "arguments": "all", "contact": "cfo"}
            )
            assert odd.is_error
            assert not (await client.call_tool("list_contacts", {})).is_error

    run(work)


def test_a_wrong_token_is_told_to_the_model_and_its_user(site: Site) -> None:
    """The tools are listed all the same, without the people."""

    async def work() -> None:
        async with assistant(site, token="wl_wrong") as client:
            assert len((await client.list_tools()).tools) == 3
            refused = await client.call_tool("contact_human", {"message": "Hi?", "contact": "alice"})
            assert refused.is_error and "token" in words(refused) and "wl_wrong" not in words(refused)

    run(work)


def test_without_the_sdk_the_command_says_what_to_install(tmp_path: Path) -> None:
    """In one line, with exit code 1."""
    code = (
        "import sys; sys.modules['mcp'] = None; sys.argv = ['wakeloop', 'mcp']\n"
        "from wakeloop.cli import main; main()"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip

    assert done.returncode == 1 and done.stdout == ""
    assert 'wakeloop: MCP needs its SDK: pip install "wakeloop[mcp]"' in done.stderr
