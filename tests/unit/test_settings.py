"""Settings: where they come from, which source wins, and how every mistake is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wakeloop.errors import ConfigurationError
from wakeloop.settings import Settings, load_settings
from wakeloop.settings_sources import key_lines


@pytest.fixture(autouse=True)
def _no_outside_influence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WAKELOOP_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write(folder: Path, toml: str, dotenv: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "wakeloop.toml"
    file.write_text(toml, encoding="utf-8")
    if dotenv is not None:
        (folder / ".env").write_text(dotenv, encoding="utf-8")
    return file


def refusal(**arguments: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**arguments)
    return str(caught.value)


# Sources


def test_without_any_file_the_defaults_hold(tmp_path: Path) -> None:
    """A folder of agents is enough to start with."""
    settings = load_settings()

    assert settings.database_url == f"sqlite:///{tmp_path}/.wakeloop/wakeloop.db"
    assert settings.agents_dir == tmp_path / "agents"
    assert (settings.broker_url, settings.queue) == ("embedded://local", "wakeloop")
    assert (settings.host, settings.port, settings.public_url) == ("127.0.0.1", 8080, None)
    assert (settings.worker_concurrency, settings.lease_seconds) == (32, 15.0)
    assert (settings.unknown_sender, settings.trusted_proxies) == ("ignore", ())
    assert (settings.contacts, settings.channels) == ({}, {})
    assert settings.unrouted_text


def test_each_source_wins_over_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments, environment, .env, toml, defaults."""
    write(
        tmp_path,
        'queue = "toml"\nhost = "toml"\nport = 1\nworker_concurrency = 1',
        dotenv='WAKELOOP_QUEUE=dotenv\nWAKELOOP_HOST="dotenv"\nexport WAKELOOP_PORT=2\n',
    )
    monkeypatch.setenv("WAKELOOP_QUEUE", "environment")
    monkeypatch.setenv("WAKELOOP_HOST", "environment")

    settings = load_settings(queue="argument", host=None)

    assert (settings.queue, settings.host, settings.port) == ("argument", "environment", 2)
    assert (settings.worker_concurrency, settings.lease_seconds) == (1, 15.0)


def test_the_file_is_the_argument_or_the_variable_or_the_one_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order, and relative to `directory`."""
    write(tmp_path, 'queue = "here"')
    write(tmp_path / "other", 'queue = "there"')
    (tmp_path / "named.toml").write_text('queue = "named"', encoding="utf-8")

    assert load_settings().queue == "here"
    assert load_settings(directory=tmp_path / "other").queue == "there"
    monkeypatch.setenv("WAKELOOP_CONFIG", "named.toml")
    assert load_settings().queue == "named"
    assert load_settings(path=Path("other/wakeloop.toml")).queue == "there"


def test_dotenv_is_read_beside_the_toml_file(tmp_path: Path) -> None:
    """Not in the current folder; other programs' variables in it are let be."""
    (tmp_path / ".env").write_text("WAKELOOP_PORT=1", encoding="utf-8")
    file = write(tmp_path / "site", "", dotenv="DEBUG=1\nWAKELOOP_PORT=2\nUNSET\n")

    assert load_settings(path=file).port == 2


def test_relative_paths_are_relative_to_the_toml_file(tmp_path: Path) -> None:
    """Wherever the process was started."""
    file = write(
        tmp_path / "site", 'database_url = "sqlite:///data/w.db?timeout=5"\nagents_dir = "my agents"'
    )

    settings = load_settings(path=file)

    assert settings.database_url == f"sqlite:///{tmp_path}/site/data/w.db?timeout=5"
    assert settings.agents_dir == tmp_path / "site" / "my agents"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////var/w.db",
        "sqlite:///file:w?uri=true",
        "postgresql://h/w",
    ],
)
def test_other_database_urls_stay_as_they_are(url: str) -> None:
    """In memory, absolute, a file URI, or no SQLite at all."""
    assert load_settings(database_url=url).database_url == url


def test_a_variable_that_is_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As compose files do with `${PORT:-}`."""
    monkeypatch.setenv("WAKELOOP_PORT", "")
    monkeypatch.setenv("WAKELOOP_CONFIG", "")

    assert load_settings().port == 8080


def test_proxies_are_a_list_or_text_with_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses and networks, of both kinds."""
    write(tmp_path, 'trusted_proxies = ["127.0.0.1", "::1"]')
    assert load_settings().trusted_proxies == ("127.0.0.1", "::1")

    monkeypatch.setenv("WAKELOOP_TRUSTED_PROXIES", "10.0.0.0/8, fd00::/8,")
    assert load_settings().trusted_proxies == ("10.0.0.0/8", "fd00::/8")


def test_some_values_have_one_form() -> None:
    """A public URL ends without a slash; an empty text is none."""
    settings = load_settings(public_url="https://example.com/agents/", unrouted_text="")

    assert settings.public_url == "https://example.com/agents"
    assert settings.unrouted_text is None


# Contacts and channels


def test_contacts_are_tables_with_their_channels_in_order(tmp_path: Path) -> None:
    """Every way to write the table gives the same contact."""
    forms = [
        '[contacts.alice]\nsms = "+1"\nemail = "a@b.c"\ntz = "Europe/Paris"',
        'contacts.alice.sms = "+1"\ncontacts.alice.email = "a@b.c"\ncontacts.alice.tz = "Europe/Paris"',
        'contacts = { alice = { sms = "+1", email = "a@b.c", tz = "Europe/Paris" } }',
        '[contacts]\nalice = { sms = "+1", email = "a@b.c", tz = "Europe/Paris" }',
    ]
    found = []
    for form in forms:
        write(tmp_path, form)
        found.append(load_settings().contacts["alice"])

    assert found == [found[0]] * len(forms)
    assert found[0].id == "alice"
    assert list(found[0].addresses) == ["sms", "email"]


def test_tables_are_merged_key_by_key(tmp_path: Path) -> None:
    """An argument changes one address and leaves the rest of the contact."""
    write(tmp_path, '[contacts.alice]\nsms = "+1"\ntz = "Europe/Paris"')

    contact = load_settings(contacts={"alice": {"sms": "+2"}}).contacts["alice"]

    assert (contact.addresses["sms"], contact.tz) == ("+2", "Europe/Paris")


def test_a_channels_secrets_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a configured channel, or one that is installed; the longest channel name wins; case is folded."""
    write(
        tmp_path,
        '[channels.my-pager]\nurl = "u"\n[channels.my-pager-2]',
        dotenv="WAKELOOP_SMS_AUTH_TOKEN=from dotenv\nWAKELOOP_SMS_ACCOUNT_SID=AC1\nWAKELOOP_PAGER_TOKEN=nobody's",
    )
    monkeypatch.setenv("WAKELOOP_SMS_AUTH_TOKEN", "from environment")
    monkeypatch.setenv("WAKELOOP_MY_PAGER_TOKEN", "one")
    monkeypatch.setenv("WAKELOOP_MY_PAGER_2_TOKEN", "two")

    settings = load_settings()

    assert settings.channel_section("sms") == {"auth_token": "from environment", "account_sid": "AC1"}
    assert settings.channel_section("my-pager") == {"url": "u", "token": "one"}
    assert settings.channel_section("my-pager-2") == {"token": "two"}
    assert set(settings.channels) == {"sms", "my-pager", "my-pager-2"}


def test_a_section_is_a_copy_and_empty_if_there_is_none(tmp_path: Path) -> None:
    """An adapter may take its table apart."""
    write(tmp_path, "[channels.sms]\nnumbers = [1]")
    settings = load_settings()

    settings.channel_section("sms")["numbers"].append(2)

    assert settings.channel_section("sms") == {"numbers": [1]}
    assert settings.channel_section("fax") == {}


def test_settings_are_frozen_and_read_nothing_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Settings(...)` is what it is given, so tests need no clean environment."""
    monkeypatch.setenv("WAKELOOP_PORT", "1")
    settings = Settings(contacts={"alice": {"sms": "+1"}})

    assert settings.port == 8080
    assert settings.contacts["alice"].id == "alice"
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_no_secret_is_ever_shown(tmp_path: Path) -> None:
    """Neither tokens, nor passwords in URLs, nor anybody's address."""
    write(
        tmp_path,
        '[contacts.alice]\nsms = "+1-hidden"\n[channels.sms]\naccount_sid = "hidden"',
        dotenv="WAKELOOP_SMS_AUTH_TOKEN=hidden\n"
        "WAKELOOP_DATABASE_URL=postgresql://wakeloop:hid@den@db/w?sslpassword=hidden&connect_timeout=3\n"
        "WAKELOOP_BROKER_URL=redis://:hidden@redis/0\n",
    )
    settings = load_settings()

    for shown in (repr(settings), str(settings)):
        assert "hid" not in shown.replace("hidden_", "")
        assert "den" not in shown
        assert "postgresql://wakeloop:…@db/w?sslpassword=…&connect_timeout=3" in shown
        assert "redis://:…@redis/0" in shown
        assert "auth_token" in shown


# Mistakes


def test_a_missing_file_that_was_named_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By argument or by variable."""
    assert refusal(path=Path("no.toml")).startswith(
        f"{tmp_path}/no.toml: there is no such file; correct the path"
    )
    monkeypatch.setenv("WAKELOOP_CONFIG", "gone.toml")
    assert refusal().startswith(f"{tmp_path}/gone.toml: there is no such file")


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A folder in its place, or bytes that are no text."""
    (tmp_path / "wakeloop.toml").mkdir()
    assert refusal().startswith(f"{tmp_path}/wakeloop.toml: cannot be read: Is a directory")

    (tmp_path / "latin.toml").write_bytes(b"port = 1\nqueue = '\xe9'\n")
    assert refusal(path=Path("latin.toml")).startswith(f"{tmp_path}/latin.toml:2: is not UTF-8 text")


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ("port = 1\nqueue =\n", 2),
        ("port = 1\n\n[contacts\n", 3),
        ('port = 1\nqueue = "a\n', 2),
        ("a = [\n1,\n", 2),
    ],
)
def test_wrong_syntax_is_told_with_its_line(tmp_path: Path, toml: str, line: int) -> None:
    """Also where the file ends too early."""
    file = write(tmp_path, toml)

    assert refusal().startswith(f"{file}:{line}: is not valid TOML: ")


MISTAKES = [
    ('prot = 1', 1, "prot: there is no such setting; did you mean 'port'?"),
    ('zzzz = 1', 1, "zzzz: there is no such setting; settings: database_url, broker_url,"),
    ('_env_file = "x"', 1, "_env_file: there is no such setting"),
    ('[contact.alice]', 1, "contact: there is no such setting; did you mean 'contacts'?"),
    ('# first\n\nport = "high"', 3, "port: Input should be a valid integer, unable to parse string as an integer, not 'high'; write for example port = 8080"),
    ('port = 70000', 1, "port: Input should be less than or equal to 65535, not 70000"),
    ('queue = ""', 1, 'queue: is empty; give a value, or leave it out, not \'\'; write for example queue = "wakeloop"'),
    ('queue = 1', 1, "queue: must be text: put quotes around it"),
    ('host = ""', 1, "host: is empty"),
    ('worker_concurrency = 0', 1, "worker_concurrency: Input should be greater than or equal to 1"),
    ('lease_seconds = 0', 1, "lease_seconds: Input should be greater than 0"),
    ('lease_seconds = inf', 1, "lease_seconds: Input should be a finite number"),
    ('unknown_sender = "shout"', 1, "unknown_sender: Input should be 'ignore' or 'answer', not 'shout'"),
    ('database_url = "mysql://u:hidden@h/w"', 1, "database_url: must be a URL that starts with sqlite:// or postgresql://; write for example database_url = "),
    ('broker_url = "localhost"', 1, "broker_url: must be a URL such as embedded://local or redis://…"),
    ('public_url = "example.com"', 1, "public_url: must be an address that starts with https://"),
    ('public_url = "https://example.com/?a=1"', 1, "public_url: must be an address"),
    ('trusted_proxies = ["10.0.0.1/8"]', 1, "trusted_proxies: 10.0.0.1/8 has host bits set; give IP addresses and networks"),
    ('trusted_proxies = "*"', 1, "trusted_proxies: '*' does not appear to be an IPv4 or IPv6 network"),
    ('trusted_proxies = 1', 1, 'trusted_proxies: must be a list, such as ["one", "two"], not 1; write for example trusted_proxies = ["10.0.0.0/8"]'),
    ('trusted_proxies = [\n  "::1",\n  1,\n]', 1, "trusted_proxies.1: must be text"),
    ('contacts = "alice"', 1, "contacts: must be a table"),
    ('[contacts]\nalice = "+1"', 2, "contacts.alice: must be a table"),
    ('[contacts.alice]\nsms = "+1"\ntz = "Paris"', 3, "contacts.alice.tz: 'Paris' is no time zone that this machine knows: did you mean Europe/Paris?"),
    ('[contacts.alice]\nquiet_hours = "late"', 2, "contacts.alice.quiet_hours: must be two times of day"),
    ('[contacts.alice]\n\nquiet_hour = "22:00-07:00"', 3, "contacts.alice.quiet_hour: is no field of a contact; did you mean quiet_hours?"),
    ('[contacts.alice]\nsms = 1555', 2, "contacts.alice.sms: must be text: put quotes around it"),
    ('[contacts.alice]\nsmss = "+1"', 2, "contacts.alice.smss: there is no such channel; did you mean sms?"),
    ('[contacts.alice]\nsms = "+1"\npublic_url = "x"', 3, "contacts.alice.public_url: is no address but a setting; write it above the first [table]"),
    ('[contacts.alice]\nid = "bob"', 2, "contacts.alice.id: says that its id is 'bob'"),
    ('[contacts."alice smith"]\nsms = "+1"', 1, "contacts.alice smith.id: a contact's id has no white space"),
    ('[channels]\nsms = "x"', 2, "channels.sms: must be a table"),
    ('channels = 1', 1, "channels: must be a table"),
    ('[channels.sms]\nx = 1\nauth_token = "hidden"', 3, "channels.sms.auth_token: is a secret, which must not stand in this file; put it into the environment or .env, as WAKELOOP_SMS_AUTH_TOKEN"),
    ('channels.my-pager.api_key = "hidden"', 1, "as WAKELOOP_MY_PAGER_API_KEY"),
    ('[channels.sms]\nauth_tokens = ["hidden"]', 2, "as WAKELOOP_SMS_AUTH_TOKENS"),
    ('[channels.email.login]\nPassword = "hidden"', 2, "as WAKELOOP_EMAIL_LOGIN_PASSWORD"),
    ('secret_keys = ["hidden"]', 1, "put it into the environment or .env, as WAKELOOP_SECRET_KEYS"),
    ('client_secret = "hidden"', 1, "as WAKELOOP_<CHANNEL>_CLIENT_SECRET"),
]  # fmt: skip


@pytest.mark.parametrize(("toml", "line", "said"), MISTAKES)
def test_a_mistake_is_told_with_file_line_key_and_remedy(
    tmp_path: Path, toml: str, line: int, said: str
) -> None:
    """And never with the secret."""
    file = write(tmp_path, toml)

    told = refusal()

    assert told.startswith(f"{file}:{line}: ")
    assert said in told
    assert "hidden" not in told
    assert len(told.splitlines()) == 1


def test_keys_that_only_sound_secret_are_fine(tmp_path: Path) -> None:
    """A number is no secret, nor is a word inside a key."""
    write(tmp_path, '[channels.sms]\nmax_tokens = 5\ntoken_url = "https://example.com"\nkeyboard = "qwerty"')

    assert set(load_settings().channel_section("sms")) == {"max_tokens", "token_url", "keyboard"}


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each mistake, each with its own source."""
    file = write(
        tmp_path, 'prot = 1\n[contacts.alice]\ntz = "Paris"', dotenv="# numbers\n\nWAKELOOP_PORT=high\n"
    )
    monkeypatch.setenv("WAKELOOP_WORKER_CONCURRENCY", "none")

    told = refusal(lease_seconds=-1, colour="red").splitlines()

    assert [line.partition(": ")[0] for line in told] == [
        f"{file}:1",
        "argument colour",
        f"{tmp_path}/.env:3",
        "environment variable WAKELOOP_WORKER_CONCURRENCY",
        "argument lease_seconds",
        f"{file}:3",
    ]
    assert told[2].startswith(f"{tmp_path}/.env:3: WAKELOOP_PORT: port: Input should be a valid integer")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("WAKELOOP_DATABSE_URL", "did you mean WAKELOOP_DATABASE_URL?"),
        ("WAKELOOP_DATABASE", "did you mean WAKELOOP_DATABASE_URL?"),
        ("WAKELOOP_CONTACTS", "is a table; write [contacts.…] in wakeloop.toml"),
        ("WAKELOOP_CHANNELS", "is a table; write [channels.…] in wakeloop.toml"),
    ],
)
def test_a_variable_that_is_nearly_a_setting_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    """To run on the default instead could be to run on another database."""
    monkeypatch.setenv(name, "hidden")

    told = refusal()

    assert told.startswith(f"environment variable {name}: ")
    assert said in told
    assert "hidden" not in told


@pytest.mark.parametrize(
    "name", ["WAKELOOP_SERVICE_HOST", "WAKELOOP_PORT_8080_TCP_ADDR", "WAKELOOP_TOKEN", "WAKELOOP_"]
)
def test_a_variable_of_somebody_else_is_let_be(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Kubernetes sets some for every service; clients have their own."""
    monkeypatch.setenv(name, "1")

    assert load_settings() == Settings(
        database_url=load_settings().database_url, agents_dir=load_settings().agents_dir
    )


def test_a_dotenv_file_that_cannot_be_read_is_told_with_its_line(tmp_path: Path) -> None:
    """A line that is no assignment is not skipped in silence."""
    write(tmp_path, "", dotenv="# ours\nWAKELOOP_PORT=1\n\nWAKELOOP QUEUE=hidden\n")

    told = refusal()

    assert told.startswith(f"{tmp_path}/.env:4: cannot be read; write NAME=value")
    assert "hidden" not in told


# Lines


def test_lines_are_found_around_strings_lists_and_comments() -> None:
    """What looks like a key or a table within a value is none."""
    text = '''# port = 0
"quoted key" = 1 # ]
a.b = [
  "x = 1", # ] not yet
  ["c"],
  [
  "table"
  ]
]
text = """
[not.a.table]
d = 1 \\"""
""""
literal = \'\'\'
e = "
\'\'\'
  port = { f = "}" }
[ contacts . 'al.ice' ] # [f]
sms = "\\"]"
[[list]]
g = 1
[[list]]
h = 1'''

    assert key_lines(text) == {
        ("quoted key",): 2,
        ("a",): 3,
        ("a", "b"): 3,
        ("text",): 10,
        ("literal",): 14,
        ("port",): 17,
        ("contacts",): 18,
        ("contacts", "al.ice"): 18,
        ("contacts", "al.ice", "sms"): 19,
        ("list",): 20,
        ("list", "g"): 21,
        ("list", "h"): 23,
    }


VALUES = st.sampled_from(
    ["1", '"a"', '"\\"#["', "'#'", '"""\nx = 1\n"""', "'''\n[t]\n'''", "[\n1, # ]\n2]", "{ x = 1 }"]
)


@given(st.lists(st.tuples(st.sampled_from(["", "\n", "# [c] x = 1\n", "  "]), VALUES), max_size=12))
def test_every_key_is_found_on_its_line(entries: list[tuple[str, str]]) -> None:
    """Whatever values stand before it."""
    text, expected = "", {}
    for number, (before, value) in enumerate(entries):
        text += before
        expected[f"key{number}",] = text.count("\n") + 1
        text += f"key{number} = {value}\n"

    assert key_lines(text) == expected


# Groups, approvers and pace


TEAM = """
[contacts.alice]
sms = "+15555550100"
groups = ["finance"]

[contacts.bob]
email = "bob@example.com"
"""


def test_approvers_are_contacts_and_groups_by_function(tmp_path: Path) -> None:
    """Whatever a function is called: its name is never taken for that of a secret."""
    file = write(tmp_path, TEAM + '\n[approvers]\npay = ["bob", "finance"]\nrotate_api_key = ["bob"]\n')

    settings = load_settings(path=file)

    assert settings.approvers == {"pay": ("bob", "finance"), "rotate_api_key": ("bob",)}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('pay = ["finanse"]', "approvers.pay: there is no contact and no group 'finanse'; did you mean 'finance'?"),
        ('pay = ["bob", "zzz"]', "there is no contact and no group 'zzz'; contacts and groups: alice, bob, finance"),
        ("pay = []", "approvers.pay: names nobody; name a contact or a group, or leave it out"),
        ('pay = "bob"', 'approvers.pay: must be a list, such as ["one", "two"]'),
        ("pay = [7]", "approvers.pay.0: must be text: put quotes around it"),
    ],
)  # fmt: skip
def test_wrong_approvers_are_told_with_file_and_line(tmp_path: Path, line: str, problem: str) -> None:
    """With the nearest names there are."""
    file = write(tmp_path, f"{TEAM}\n[approvers]\n# who may\n{line}\n")

    told = refusal(path=file)

    assert told.startswith(f"{file}:11: ")
    assert problem in told


def test_a_group_that_is_called_like_a_contact_is_told_with_file_and_line(tmp_path: Path) -> None:
    """Names of contacts and groups are one set of names."""
    file = write(tmp_path, TEAM.replace('"finance"', '"bob"'))

    assert refusal(path=file) == (
        f"{file}:4: contacts.alice.groups: 'bob' is a contact, so no group can have that name; rename one of them"
    )


def test_how_often_a_person_is_written_to_can_be_set(tmp_path: Path) -> None:
    """Zero switches a limit off; a negative one is a mistake."""
    assert (load_settings().messages_per_hour, load_settings().coalesce_seconds) == (60, 60.0)

    found = load_settings(path=write(tmp_path, "messages_per_hour = 0\ncoalesce_seconds = 0\n"))
    assert (found.messages_per_hour, found.coalesce_seconds) == (0, 0.0)

    told = refusal(path=write(tmp_path, "messages_per_hour = -1\ncoalesce_seconds = -0.5\n"))
    assert "wakeloop.toml:1: messages_per_hour: " in told
    assert "wakeloop.toml:2: coalesce_seconds: " in told


def test_approvers_cannot_be_given_as_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table is written in the file."""
    monkeypatch.setenv("WAKELOOP_APPROVERS", "cfo")

    assert "is a table; write [approvers.…] in wakeloop.toml" in refusal()
