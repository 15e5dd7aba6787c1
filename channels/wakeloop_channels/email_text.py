"""What a person wrote in a mail: text from HTML, without the quoted messages and the signature beneath.

mail-parser-reply knows the headers and signatures of many languages. Its expressions take time that grows with the
square of a line and of a text, so it is given short ones; what is cut before is cut by rules that take each line once.
A quoted text never counts as written: it holds our own words, "reply yes to approve" among them.
"""

from __future__ import annotations

import re
from html import unescape

from mailparser_reply.parser import EmailMessage  # type: ignore[import-untyped]

MAX_TEXT = 100_000
"""Characters of one mail that are read."""
MAX_PARSED = 4_000
MAX_PARSED_LINE = 200
LANGUAGES = ("en", "de", "fr", "es", "it", "nl", "pl", "sv", "da", "cs", "ja", "ko", "zh")

_FORWARDED = re.compile(r"\s*(?:fwd?|wg|tr|rv|i|enc|doorst|vb|pd|转发|転送)\s*:", re.IGNORECASE)
# The first line of a header that mail programs put above what they quote, without a > before it.
_FROM = re.compile(
    r"[*\s]*(?:from|von|de|da|van|från|fra|od|expéditeur|remitente|mittente|от|发件人|寄件者|差出人|보낸 사람)"
    r"\s{0,3}[*]*\s{0,3}[:：].*",
    re.IGNORECASE,
)
_LABEL = re.compile(r"[*\s]*[^\W\d_][\w .\-]{0,24}[*]*\s{0,3}[:：].*")
_SEPARATOR = re.compile(
    r"\s*(?:_{20,}|[-=]{4,}[^\n]{3,60}[-=]{4,}|begin forwarded message:)\s*", re.IGNORECASE
)
_POSTSCRIPT = re.compile(r"^\s*(?:p\.?\s?s|n\.?\s?b|ps)\b[.:\s]", re.IGNORECASE | re.MULTILINE)
_DEVICE = re.compile(
    r"(?:sent from|get outlook for|gesendet (?:von|mit)|von mein\w+ .{1,40} gesendet|envoyé (?:de|depuis)|télécharger outlook|"
    r"enviado (?:desde|do|de)|obtener outlook|inviato da|verzonden (?:vanaf|met)|skickat från|sendt fra|wysłane z|odesláno z)"
    r"\b.{0,60}",
    re.IGNORECASE,
)
# In time that grows with the length alone: a comment without an end takes the rest, a tag ends before the next one.
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_TAG = re.compile(r"<(/?)([a-zA-Z][\w:\-]*)[^<>]*>|<[!?][^<>]*>")
_HELD = re.compile("\ue000(\\d+)\ue000")


def written(text: str, subject: str = "") -> str:
    """What somebody wrote themselves: quoted messages and the signature are gone, answers between and below quoted
    lines stay, and so does a postscript. Of a message that the subject calls forwarded everything stays: it was sent on
    for the sake of what it holds."""
    text = _tidy(text)
    if _FORWARDED.match(subject):
        return text
    own = _without_quotes(text.split("\n"))
    if len(own) <= MAX_PARSED:
        own = _parsed(own)
    return _without_device(own.strip())


def text_of(markup: str) -> str:
    """The text of an HTML document, quotations with > before each line, as a plain text would have them."""
    reader = _Reader()
    reader.read(_COMMENT.sub("", markup[: 5 * MAX_TEXT]))
    return _tidy(reader.text())


def _tidy(text: str) -> str:
    """Line ends alike, no control characters, no trailing blanks, at most one empty line in a row."""
    text = text[:MAX_TEXT].replace("\r\n", "\n").replace("\r", "\n").replace("\N{NO-BREAK SPACE}", " ")
    text = re.sub("[\0-\x08\x0b-\x1f\x7f\u200b\u2060\ufeff\ue000]", "", text)
    lines = (line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _without_quotes(lines: list[str]) -> str:
    """Drops quoted lines, the attribution above them, and all from the header of an unmarked quotation on."""
    kept: list[str] = []
    for index, line in enumerate(lines):
        if line.lstrip().startswith(">"):
            if index == 0 or not lines[index - 1].lstrip().startswith(">"):
                _drop_attribution(kept)
            continue
        if len(line) <= MAX_PARSED_LINE and (_separates(lines, index) or _begins_header(lines, index)):
            break
        kept.append(line)
    return "\n".join(kept).strip()


def _without_device(text: str) -> str:
    """Without a last line such as `Sent from my iPhone`."""
    above, _, last = text.rpartition("\n")
    return above.rstrip() if len(last) <= 80 and _DEVICE.fullmatch(last.strip()) else text


def _drop_attribution(kept: list[str]) -> None:
    """`On Monday, Ada wrote:` in any language: up to three lines directly above a quotation, the last with a colon at its
    end, and among them an address or a digit of the date."""
    while kept and not kept[-1].strip():
        kept.pop()
    if not kept or not kept[-1].endswith((":", "：")):
        return
    for count in range(1, 4):
        above = kept[-count:]
        if len(above) < count or not above[0].strip():
            return
        told = " ".join(above)
        if "@" in told or (re.search(r"\d", told) and re.search(r"\d[.:/\-]\d|\d{4}", told)):
            del kept[-count:]
            return


def _separates(lines: list[str], index: int) -> bool:
    """Whether this is a line of dashes or such, and the header of a quotation begins behind it."""
    if not _SEPARATOR.fullmatch(lines[index]):
        return False
    following = next((line for line in lines[index + 1 : index + 4] if line.strip()), "")
    return len(following) <= MAX_PARSED_LINE and _LABEL.fullmatch(following) is not None


def _begins_header(lines: list[str], index: int) -> bool:
    """`From: …` and at least two more labelled lines among the next six, one of them with an address."""
    if not _FROM.fullmatch(lines[index]):
        return False
    block = [line[:MAX_PARSED_LINE] for line in lines[index : index + 12] if line.strip()][:7]
    labelled = [line for line in block if _LABEL.fullmatch(line)]
    return len(labelled) >= 3 and ("@" in "".join(block[:3]) or len(labelled) >= 4)


def _parsed(text: str) -> str:
    """What mail-parser-reply leaves of it, long lines being held back from its expressions."""
    held: list[str] = []

    def hold(line: str) -> str:
        if len(line) <= MAX_PARSED_LINE:
            return line
        held.append(line)
        return f"\ue000{len(held) - 1}\ue000"

    short = "\n".join(hold(line) for line in text.split("\n"))
    replies = EmailMessage(text=short, languages=list(LANGUAGES), keep_hyphen_lists=True).read().replies
    first = replies[0] if replies else None
    if first is None:
        return ""
    # An unmarked quotation has a header: nothing of what is below it was written by this person.
    body = "" if first.headers else str(first.body)
    signature = str(first.signatures or "")
    postscript = _POSTSCRIPT.search(signature)
    if postscript is not None:
        body = f"{body}\n\n{signature[postscript.start() :].strip()}"
    return _HELD.sub(lambda match: held[int(match[1])], body)


class _Reader:
    """Collects lines, each with the depth of quotation that it stands in."""

    BLOCKS = frozenset(
        {
            "address",
            "article",
            "aside",
            "blockquote",
            "body",
            "center",
            "dd",
            "div",
            "dl",
            "dt",
            "figure",
            "footer",
        }
        | {
            "form",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "header",
            "hr",
            "li",
            "main",
            "nav",
            "ol",
            "p",
            "pre",
            "section",
        }
        | {"table", "tbody", "tfoot", "thead", "tr", "ul"}
    )
    SPACED = frozenset({"p", "blockquote", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6", "table"})
    HIDDEN = frozenset({"head", "script", "style", "title", "template"})

    def __init__(self) -> None:
        self._lines: list[tuple[int, str]] = []
        self._words: list[str] = []
        self._depth = 0
        self._hidden = 0
        self._kept = 0

    def read(self, markup: str) -> None:
        """Take a document, whole or not."""
        position = 0
        for match in _TAG.finditer(markup):
            self._take(unescape(markup[position : match.start()]))
            position = match.end()
            if match[2] and match[1]:
                self._close(match[2].lower())
            elif match[2]:
                self._open(match[2].lower())
        self._take(unescape(markup[position:]))

    def _open(self, tag: str) -> None:
        if tag in self.HIDDEN:
            self._hidden += 1
        elif tag == "body":
            self._hidden = 0
        if tag == "br":
            self._end()
        elif tag in self.BLOCKS:
            self._begin(tag)
            if tag == "li":
                self._words.append("- ")
            self._kept += tag == "pre"
        if tag == "blockquote":
            self._depth += 1

    def _close(self, tag: str) -> None:
        if tag in self.HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif tag in self.BLOCKS:
            if self._words:
                self._end()
            if tag == "blockquote":
                self._depth = max(0, self._depth - 1)
            self._begin(tag)
            self._kept = max(0, self._kept - (tag == "pre"))

    def _take(self, data: str) -> None:
        if self._hidden or not data:
            return
        if self._kept:
            first, *more = data.split("\n")
            self._words.append(first)
            for line in more:
                self._end()
                self._words.append(line)
        else:
            self._words.append(re.sub(r"\s+", " ", data))

    def text(self) -> str:
        """All that was read."""
        self._end()
        return "\n".join(
            ("> " * min(depth, 5) + line if line.strip() else ">" * min(depth, 5))
            for depth, line in self._lines
        )

    def _begin(self, tag: str) -> None:
        if self._words:
            self._end()
        if tag in self.SPACED and self._lines and self._lines[-1][1]:
            self._lines.append((self._depth, ""))

    def _end(self) -> None:
        line = "".join(self._words)
        self._lines.append((self._depth, line.rstrip() if self._kept else re.sub(" +", " ", line).strip()))
        self._words.clear()
