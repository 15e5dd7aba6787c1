"""README and docs say what is so: every code block is run or checked, every link leads somewhere, every test that is
named exists, and what is generated is fresh."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import tornado.options
import typer
import yaml
from celery.bin.worker import worker as celery_worker

from wakeloop import crashpoints
from wakeloop.cli import app
from wakeloop.settings import load_settings

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "channels" / "ADDING_A_CHANNEL.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
SHELL = {"sh", "console"}
PLAIN = {"cat", "cd", "cp", "createdb", "export", "kill", "ls", "mkdir", "redis-server"}

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<language>[^\s`]*)[ \t]*(?P<options>.*)$")
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(?P<title>.+?) *#*$")
_TEST = re.compile(r"(?P<file>tests/[\w/]+\.py)::(?P<name>\w+)")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


@dataclass(frozen=True)
class Block:
    """A fenced code block. `line` is that of its first line of code."""

    page: Path
    line: int
    language: str
    options: dict[str, str]
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks_of(page: Path) -> list[Block]:
    """The page's code blocks, those within lists too."""
    found: list[Block] = []
    lines = iter(enumerate(page.read_text().splitlines(), start=1))
    for number, line in lines:
        opening = _FENCE.match(line)
        if opening is None:
            continue
        indent, body = len(opening["indent"]), []
        for _, inner in lines:
            if inner.strip() == opening["fence"]:
                break
            body.append(inner[indent:])
        else:
            raise AssertionError(f"{name_of(page)}:{number}: the code block has no end")
        options = dict(part.split("=", 1) for part in shlex.split(opening["options"]))
        found.append(Block(page, number + 1, opening["language"], options, "\n".join(body) + "\n"))
    return found


def prose_of(page: Path) -> str:
    """The page without its code blocks."""
    code = {
        block.line + number for block in blocks_of(page) for number in range(len(block.text.splitlines()))
    }
    lines = enumerate(page.read_text().splitlines(), start=1)
    return "\n".join(line for number, line in lines if number not in code)


# ---------------------------------------------------------------------- code


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to be in, without wakeloop's settings in the environment, and without a network."""
    for name in [name for name in os.environ if name.startswith("WAKELOOP_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "localhost"):
            raise AssertionError(f"code in the docs connects to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if name.split(".")[0] in ("agents", "docs_page") or (file or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_code_block_runs_or_is_checked(page: Path, workplace: Path) -> None:
    """Python runs, blocks of a page sharing one namespace; settings load; commands exist with their options; what is
    quoted from a file of tests stands there."""
    module = ModuleType("docs_page")
    sys.modules[module.__name__] = module
    for block in blocks_of(page):
        if "file" in block.options:
            file = workplace / block.options["file"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
        if "from" in block.options:
            check_quoted(block)
        elif block.language == "python":
            run(block, module)
        elif block.language == "toml":
            file = workplace / "checked.toml"
            file.write_text(block.text)
            load_settings(path=file)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            list(yaml.safe_load_all(block.text))
        elif block.language in SHELL:
            for command in commands_of(block):
                check_command(command, block.place)
        else:
            assert block.language == "text", f"{block.place}: a block of {block.language or 'no language'}"


def run(block: Block, module: ModuleType) -> None:
    """Execute a block, and the tests that it defines. One that is a file is imported as such if it can be."""
    file = block.options.get("file")
    if file is not None and not Path(file).name.startswith("test_"):
        importlib.invalidate_caches()
        importlib.import_module(file.removesuffix(".py").replace("/", "."))
        return
    before = dict(vars(module))
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec", dont_inherit=True)
    exec(code, vars(module))
    for name, value in list(vars(module).items()):
        if name.startswith("test_") and callable(value) and before.get(name) is not value:
            value()


def check_quoted(block: Block) -> None:
    """Raise AssertionError unless every statement of the block stands in the file that it is said to be from."""
    file = block.options["from"]
    there = {ast.dump(node) for node in ast.walk(ast.parse((ROOT / file).read_text()))}
    for statement in ast.parse(textwrap.dedent(block.text)).body:
        line = block.line + statement.lineno - 1
        assert ast.dump(statement) in there, f"{name_of(block.page)}:{line}: this does not stand in {file}"


def commands_of(block: Block) -> list[str]:
    """The commands of a shell block: every line, or in a transcript (`console`) those behind a `$`."""
    text = block.text.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    if block.language == "console":
        return [line[2:] for line in lines if line.startswith("$ ")]
    return [line for line in lines if line and not line.startswith("#")]


def check_command(command: str, place: str) -> None:
    """Raise AssertionError unless the command could be typed."""
    words = shlex.split(command, comments=True)
    while words and _ASSIGNMENT.match(words[0]):
        words = words[1:]
    if not words:
        return
    program, arguments = Path(words[0]).name, words[1:]
    if program == "wakeloop":
        check_wakeloop(arguments, place)
    elif program == "make":
        variables = {word.partition("=")[0] for word in arguments if _ASSIGNMENT.match(word)}
        unknown = {word for word in arguments if not _ASSIGNMENT.match(word)} - make_targets()
        assert not unknown, f"{place}: `{command}`: the Makefile has no target {unknown}"
        unused = {name for name in variables if f"$({name})" not in (ROOT / "Makefile").read_text()}
        assert not unused, f"{place}: `{command}`: the Makefile does not use {unused}"
    elif program == "celery":
        check_celery(arguments, place)
    elif program in ("python", "python3") and arguments[:2] == ["-m", "pytest"]:
        pass
    elif program in ("python", "python3"):
        check_python(arguments, place)
    elif program == "pip":
        check_pip(arguments, place)
    else:
        assert program in PLAIN | {"pytest"}, f"{place}: `{command}`: nothing is known of {program}"


def check_wakeloop(arguments: Sequence[str], place: str) -> None:
    command: Any = typer.main.get_command(app)
    context = None
    left = list(arguments)
    try:
        while True:
            context = command.make_context(command.name, left, parent=context)
            left = [*getattr(context, "_protected_args", ()), *context.args]
            if not left or not hasattr(command, "resolve_command"):
                return
            _, command, left = command.resolve_command(context, left)
    except Exception as error:
        raise AssertionError(f"{place}: `wakeloop {shlex.join(arguments)}`: {error}") from error


def check_celery(arguments: Sequence[str], place: str) -> None:
    assert arguments[:2] == ["-A", "wakeloop"], f"{place}: celery without -A wakeloop"
    what, options = arguments[2], list(arguments[3:])
    if what == "worker":
        try:
            celery_worker.make_parser(click.Context(celery_worker)).parse_args(options)
        except click.UsageError as error:
            raise AssertionError(f"{place}: celery worker: {error}") from error
        return
    assert what == "flower", f"{place}: celery {what}"
    importlib.import_module("flower.options")
    for option in options:
        name = option.removeprefix("--").partition("=")[0]
        assert name in tornado.options.options, f"{place}: celery flower has no --{name}"


def check_python(arguments: Sequence[str], place: str) -> None:
    """A module, whose `--help` names every option, or a file of this repository."""
    if arguments[:1] != ["-m"]:
        assert (ROOT / arguments[0]).is_file(), f"{place}: there is no {arguments[0]}"
        return
    module = arguments[1]
    assert importlib.util.find_spec(module) is not None, f"{place}: there is no module {module}"
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    for option in (word.partition("=")[0] for word in arguments[2:] if word.startswith("-")):
        assert option in done.stdout, f"{place}: python -m {module} has no {option}"


def check_pip(arguments: Sequence[str], place: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert arguments[0] == "install", f"{place}: pip {arguments[0]}"
    for word in arguments[1:]:
        found = re.fullmatch(r"(?P<name>[\w-]+)(\[(?P<extras>[\w,]+)\])?", word)
        assert found is not None and found["name"] == project["name"], f"{place}: pip install {word}"
        for extra in (found["extras"] or "").split(","):
            assert not extra or extra in project["optional-dependencies"], f"{place}: no extra {extra}"


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


# ---------------------------------------------------------------------- text


@lru_cache
def anchors_of(page: Path) -> frozenset[str]:
    """The anchors that GitHub makes of a page's headings."""
    found: list[str] = []
    for line in prose_of(page).splitlines():
        if (heading := _HEADING.match(line)) is not None:
            title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading["title"]).replace("`", "")
            slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Links between pages lead to files, and to headings, that are there."""
    for link in _LINK.finditer(re.sub(r"`[^`\n]*`", "", prose_of(page))):
        target, _, anchor = link["target"].partition("#")
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{name_of(page)}: {link['target']} leads nowhere"
        if anchor:
            assert anchor in anchors_of(file), f"{name_of(page)}: {link['target']} names no heading"


@lru_cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    """A guarantee whose test was renamed or dropped is noticed."""
    for found in _TEST.finditer(page.read_text()):
        assert (ROOT / found["file"]).is_file(), f"{name_of(page)} names {found['file']}"
        assert found["name"] in names_in(found["file"]), f"{name_of(page)} names {found[0]}"


def test_every_guarantee_names_a_test() -> None:
    """What is promised is tested: each section of the page that has a number names at least one test."""
    text = (ROOT / "docs" / "guarantees.md").read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    promised = [section for section in sections if re.match(r"\d+\. ", section)]

    assert [int(section.partition(".")[0]) for section in promised] == sorted(
        int(section.partition(".")[0]) for section in promised
    )
    assert all(_TEST.search(section) for section in promised)


def test_the_page_on_testing_lists_every_crash_point() -> None:
    """The list is the code's."""
    text = (ROOT / "docs" / "testing.md").read_text()

    listed = dict(re.findall(r"^\| `([\w.]+)` \| (.+?) \|$", text, re.MULTILINE))

    assert {name: listed.get(name) for name in crashpoints.CRASH_POINTS} == crashpoints.CRASH_POINTS


def test_every_decision_is_listed() -> None:
    """Each page of docs/decisions is linked from its index, and fits on a screen."""
    folder = ROOT / "docs" / "decisions"
    pages = {page.name for page in folder.glob("[0-9]*.md")}

    listed = set(re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text()))

    assert listed == pages
    assert max(len((folder / page).read_text().splitlines()) for page in pages) <= 50


def test_the_generated_reference_is_fresh() -> None:
    """`python docs/generate.py` would change nothing."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)

    stale = [str(file) for file, text in generate.pages().items() if file.read_text() != text]

    assert stale == [], "run: python docs/generate.py"
