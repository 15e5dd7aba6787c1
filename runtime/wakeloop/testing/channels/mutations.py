"""Bodies of webhooks that are almost right, for hypothesis."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, urlencode

from hypothesis import strategies as st

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
HOSTILE: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, -1, 1e308, 2**70, "", "\0", "\ud800", "x" * 5000, [], [[]], {}, {"": {}}]
)


@st.composite
def almost(draw: st.DrawFn, body: bytes) -> bytes:
    """The body with one thing wrong: a byte, a cut, or a value of the JSON or the form that it is; or any bytes."""
    ways = [_with_a_wrong_byte, _cut, _any_bytes]
    tree = _json_of(body)
    if tree is not None:
        ways += [_with_a_wrong_value] * 5
    elif b"=" in body and b"\n" not in body:
        ways += [_with_a_wrong_parameter] * 5
    return draw(st.sampled_from(ways))(draw, body)


def _with_a_wrong_byte(draw: st.DrawFn, body: bytes) -> bytes:
    at = draw(st.integers(0, max(0, len(body) - 1)))
    return body[:at] + draw(st.binary(min_size=1, max_size=3)) + body[at + 1 :]


def _cut(draw: st.DrawFn, body: bytes) -> bytes:
    return body[: draw(st.integers(0, len(body)))]


def _any_bytes(draw: st.DrawFn, body: bytes) -> bytes:
    return draw(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))


def _with_a_wrong_value(draw: st.DrawFn, body: bytes) -> bytes:
    tree = _json_of(body)
    path = draw(st.sampled_from(list(_paths(tree))))
    if not path:
        return json.dumps(draw(HOSTILE | JSON)).encode()
    holder = tree
    for part in path[:-1]:
        holder = holder[part]
    if draw(st.booleans()) and isinstance(holder, dict):
        del holder[path[-1]]
    else:
        holder[path[-1]] = draw(HOSTILE | JSON)
    return json.dumps(tree).encode()


def _with_a_wrong_parameter(draw: st.DrawFn, body: bytes) -> bytes:
    pairs = parse_qsl(body.decode("latin-1"), keep_blank_values=True)
    if not pairs:
        return b""
    at = draw(st.integers(0, len(pairs) - 1))
    name, value = pairs.pop(at)
    wrong = draw(
        st.sampled_from(["", "\0", "x" * 5000, "-1", "\N{SNOWMAN}"]) | st.text('\0\x1b aé{["', max_size=8)
    )
    how = draw(st.sampled_from(["dropped", "changed", "twice", "renamed"]))
    if how == "changed":
        pairs.append((name, wrong))
    elif how == "twice":
        pairs += [(name, value), (name, wrong)]
    elif how == "renamed":
        pairs.append((wrong, value))
    return urlencode(pairs).encode()


def _json_of(body: bytes) -> Any:
    """The object or list that a JSON body is; None for anything else."""
    try:
        tree = json.loads(body)
    except ValueError:
        return None
    return tree if isinstance(tree, dict | list) else None


def _paths(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner: list[tuple[Any, Any]] = []
    if isinstance(tree, dict):
        inner = list(tree.items())
    elif isinstance(tree, list):
        inner = list(enumerate(tree))
    return [path, *(found for key, value in inner for found in _paths(value, (*path, key)))]
