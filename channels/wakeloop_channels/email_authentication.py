"""Whether a mail comes from whom it says: what the server that received it found out, by SPF, DKIM and DMARC.

The finding stands in an Authentication-Results field (RFC 8601), and anybody can write such a field into a mail. So one
is believed only if

- it names the server that the setting `authserv_id` names; without that setting none is believed,
- it is above the first Received field of another host: fields are put on top, so what is above was added by the
  receiving side, or was at most the first thing in the mail as it arrived,
- and it is the topmost of those.

That the receiving server removes fields that bear its own name from mail that arrives, as RFC 8601 section 5 demands,
closes what remains.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Headers = Sequence[tuple[str, str]]

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[;=]|[^\s;="()]+|[()]|\S')
_BY = re.compile(r"(?:^|\s)by\s+([^\s;()]+)", re.IGNORECASE)
_FROM = re.compile(r"^\s*from\s", re.IGNORECASE)
_NUMBER = re.compile(r"\[?(?:\d{1,3}(?:\.\d{1,3}){3}|(?:IPv6:)?[0-9a-f]*:[0-9a-f:.]+)\]?", re.IGNORECASE)
_LOCAL = frozenset({"localhost", "localhost.localdomain"})


@dataclass(frozen=True, kw_only=True)
class Result:
    """One method's finding, such as `dmarc=pass header.from=example.com`; names and results in lower case."""

    method: str
    result: str
    properties: tuple[tuple[str, str], ...] = ()

    def of(self, name: str) -> str | None:
        """The value of a property, such as `header.from`."""
        return next((value for key, value in self.properties if key == name), None)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """vouched: it is certain that the domain in From sent it. auth: how that is known, or not, in words."""

    vouched: bool
    auth: str


def vouch(
    headers: Headers, address: str, authserv_id: str | None, trusted_hosts: Iterable[str] = ()
) -> Finding:
    """What the receiving server's own field says of a mail with this From address.

    `dmarc=pass` for the domain in From is enough. Where DMARC was not checked, `dkim=pass` or `spf=pass` is, if the
    domain that it was found for is that in From, or one above it (which rules it). A domain below is not: without DMARC
    nobody knows whether it is in the same hands. `trusted_hosts` are further hosts of the receiving side."""
    domain = address.rpartition("@")[2].lower()
    if authserv_id is None:
        return Finding(vouched=False, auth="From alone: no authserv_id is set")
    results = believed(headers, authserv_id, trusted_hosts)
    if results is None:
        return Finding(vouched=False, auth=f"From alone: {authserv_id} did not say")
    dmarc = [result for result in results if result.method == "dmarc"]
    if dmarc:
        good = all(one.result == "pass" and (one.of("header.from") or "").lower() == domain for one in dmarc)
        return Finding(vouched=good, auth=f"dmarc={dmarc[0].result} by {authserv_id}")
    for result in results:
        found = _found_for(result)
        if result.result == "pass" and found is not None and aligned(found, domain):
            return Finding(vouched=True, auth=f"{result.method}=pass for {found} by {authserv_id}")
    told = ", ".join(
        dict.fromkeys(f"{one.method}={one.result}" for one in results if _found_for(one) is not None)
    )
    return Finding(vouched=False, auth=f"{told or 'nothing'} for the domain in From by {authserv_id}")


def aligned(found: str, domain: str) -> bool:
    """Whether a domain that was authenticated speaks for the one in From: it is the same, or one above it."""
    found = found.lower().strip(".")
    return found == domain or ("." in found and domain.endswith(f".{found}"))


def believed(headers: Headers, authserv_id: str, trusted_hosts: Iterable[str] = ()) -> list[Result] | None:
    """The results in the one field that is believed (see above); None if there is none."""
    hosts = [host.lower().strip(".") for host in (authserv_id, *trusted_hosts)]
    for name, value in headers:
        if name.lower() == "received" and not _ours(value, hosts):
            return None
        if name.lower() == "authentication-results":
            server, results = read_results(value)
            if server == authserv_id.lower():
                return results
    return None


def read_results(value: str) -> tuple[str, list[Result]]:
    """The server that a field names, in lower case ("" if it is malformed), and its results. What cannot be read is left
    out, and comments are."""
    parts: list[list[str]] = [[]]
    depth = 0
    for token in _TOKEN.findall(value):
        if token in "()":
            depth = max(0, depth + (1 if token == "(" else -1))
        elif depth:
            continue
        elif token == ";":
            parts.append([])
        else:
            parts[-1].append(_unquoted(token))
    server = parts[0][0].lower() if parts[0] and "=" not in parts[0] else ""
    return server, [result for part in parts[1:] if (result := _result(part)) is not None]


def _result(tokens: list[str]) -> Result | None:
    """`method [/version] = result`, then `ptype.property = value`."""
    pairs: list[tuple[str, str]] = []
    for index, token in enumerate(tokens):
        if token == "=" and 0 < index < len(tokens) - 1:
            pairs.append((tokens[index - 1].lower(), tokens[index + 1]))
    if not pairs or tokens[1:2] != ["="]:
        return None
    (method, result), *properties = pairs
    return Result(method=method.partition("/")[0], result=result.lower(), properties=tuple(properties))


def _found_for(result: Result) -> str | None:
    """The domain that SPF or DKIM was found for."""
    if result.method == "dkim":
        found = result.of("header.d") or result.of("header.i")
    elif result.method == "spf":
        found = result.of("smtp.mailfrom") or result.of("smtp.mail")
    else:
        return None
    return (found or "").rpartition("@")[2].lower()


def _ours(received: str, hosts: Iterable[str]) -> bool:
    """Whether the receiving side wrote this Received field: `by` one of the hosts or one below it, by this machine, or
    by a number, without `from`, as hops within a provider are."""
    match = _BY.search(received)
    if match is None:
        return False
    by = match[1].lower().strip(".")
    if by in _LOCAL:
        return True
    if _NUMBER.fullmatch(by):
        return _FROM.match(received) is None
    return any(by == host or by.endswith(f".{host}") for host in hosts)


def _unquoted(token: str) -> str:
    return re.sub(r"\\(.)", r"\1", token[1:-1]) if len(token) > 1 and token[0] == token[-1] == '"' else token
