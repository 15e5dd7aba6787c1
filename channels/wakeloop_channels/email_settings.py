"""The settings of the email channel, of sending and of receiving: the table `[channels.email]`."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from typing import Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    DirectoryPath,
    Field,
    FilePath,
    SecretStr,
    field_validator,
    model_validator,
)

from wakeloop_channels.email_address import MAX_BASE_OCTETS, normalize_address, split_mailbox
from wakeloop_channels.email_proofs import public_key
from wakeloop_channels.explaining import Secrets, split_secrets

Security = Literal["starttls", "tls", "none"]
Inbound = Literal["imap", "mailgun", "sendgrid", "postmark", "raw"]

MIN_SECRET_LENGTH = 16
_SMTP_SCHEMES: Mapping[str, Security] = {"smtp": "starttls", "smtps": "tls"}
_SMTP_PORTS: Mapping[Security, int] = {"starttls": 587, "tls": 465, "none": 25}
_IMAP_SCHEMES: Mapping[str, Security] = {"imap": "starttls", "imaps": "tls"}
_IMAP_PORTS: Mapping[Security, int] = {"starttls": 143, "tls": 993, "none": 143}
ALIASES = {
    "reply_secrets": "reply_secret",
    "mailgun_signing_keys": "mailgun_signing_key",
    "sendgrid_public_keys": "sendgrid_public_key",
    "sendgrid_passwords": "sendgrid_password",
    "postmark_passwords": "postmark_password",
    "raw_secrets": "raw_secret",
}
"""Secrets that may be several, for rotation, and the name under which they are set."""

HINTS = {
    "from_address": 'who writes, as in "Example agents <agents@example.com>"',
    "reply_secrets": f"any text of {MIN_SECRET_LENGTH} characters or more that nobody can guess; several with commas between",
    "smtp_host": "the server that sends for you, as in smtp.example.com (or smtp_url, as in smtp://user@smtp.example.com)",
    "smtp_security": '"starttls", "tls", or for a server on this machine "none"',
    "imap_security": '"starttls", "tls", or for a server on this machine "none"',
    "inbound": '"imap", "mailgun", "sendgrid", "postmark" or "raw", or nothing if no mail comes in',
    "templates": "a folder with message.txt and message.html",
}
# What a provider's requests are known by: one of these must be set.
_PROOFS: Mapping[str, tuple[str, ...]] = {
    "mailgun": ("mailgun_signing_keys",),
    "sendgrid": ("sendgrid_public_keys", "sendgrid_passwords"),
    "postmark": ("postmark_passwords",),
    "raw": ("raw_secrets",),
}


class EmailSettings(BaseModel):
    """The table `[channels.email]`, with the secrets of the environment merged in.

    from_address: who writes, with a name if wanted. reply_to: where replies go, if not there. reply_secrets: the first
    signs the tags of reply addresses, all are believed; without one addresses have no tag. return_path: where servers
    send bounces, if not to from_address. templates: a folder with `message.txt` and `message.html` of your own.

    smtp_url, imap_url: host, port, security and user in one. smtp_security, imap_security: "none" only on this machine.
    smtp_pool_size: so many connections at once at most. smtp_timeout, imap_timeout: seconds, of each step. ca_file:
    certificates to believe in instead of the system's.

    inbound: how mail comes in. imap_sent_folder: where the server keeps what was sent, to be asked after a crash.
    imap_mark_seen, imap_move_to: what is done to mail that was recorded; it is moved to that folder if one is set.
    authserv_id: the server whose Authentication-Results are believed (RFC 8601). trusted_hosts: further hosts of the
    receiving side, as their Received fields name them. max_attachment_bytes: of all files of
    one message together, either way."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    from_address: str
    reply_to: str | None = None
    reply_secrets: Secrets = ()
    return_path: str | None = None
    templates: DirectoryPath | None = None
    max_attachment_bytes: int = Field(default=10 * 1024 * 1024, ge=0)

    smtp_url: str | None = None
    smtp_host: str
    smtp_port: int = Field(ge=1, le=65535)
    smtp_security: Security
    smtp_username: str | None = None
    smtp_password: SecretStr | None = None
    smtp_pool_size: int = Field(default=4, ge=1, le=100)
    smtp_timeout: float = Field(default=10.0, gt=0, le=300)
    ca_file: FilePath | None = None

    inbound: Inbound | None = None
    authserv_id: str | None = Field(default=None, pattern=r"^[^\s;=]+$")
    trusted_hosts: tuple[str, ...] = ()

    imap_url: str | None = None
    imap_host: str | None = None
    imap_port: int = Field(default=993, ge=1, le=65535)
    imap_security: Security = "tls"
    imap_username: str | None = None
    imap_password: SecretStr | None = None
    imap_folder: str = "INBOX"
    imap_mark_seen: bool = True
    imap_move_to: str | None = None
    imap_sent_folder: str | None = None
    imap_timeout: float = Field(default=30.0, gt=0, le=300)

    mailgun_signing_keys: Secrets = ()
    sendgrid_public_keys: Secrets = ()
    sendgrid_passwords: Secrets = ()
    postmark_passwords: Secrets = ()
    raw_secrets: Secrets = ()

    @property
    def sender(self) -> tuple[str, str]:
        """The name ("" if there is none) and the address in From."""
        return split_mailbox(self.from_address)

    @property
    def reply_address(self) -> str:
        """Where replies go, without a tag."""
        return self.reply_to or self.sender[1]

    @property
    def domain(self) -> str:
        """Of our Message-IDs: that of from_address."""
        return self.sender[1].rpartition("@")[2]

    @property
    def reply_keys(self) -> tuple[str, ...]:
        """The secrets of reply addresses as text."""
        return tuple(secret.get_secret_value() for secret in self.reply_secrets)

    def tls(self) -> ssl.SSLContext:
        """How servers are checked: certificate and host name, always."""
        return ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file is not None else None)

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, section: Any) -> Any:
        """Take URLs apart, join secrets given in singular and plural, and fill in what follows from other settings."""
        if not isinstance(section, Mapping):
            return section
        values = dict(section)
        for several, one in ALIASES.items():
            given = [values.pop(one, None), values.pop(several, None)]
            if any(value is not None for value in given):
                values[several] = split_secrets(given)
        if values.get("inbound") in ("", "none"):
            values["inbound"] = None
        _take_apart(values, "smtp", _SMTP_SCHEMES, _SMTP_PORTS, default="starttls")
        _take_apart(values, "imap", _IMAP_SCHEMES, _IMAP_PORTS, default="tls")
        return values

    @field_validator("from_address")
    @classmethod
    def _check_sender(cls, value: str) -> str:
        split_mailbox(value)
        return value

    @field_validator("reply_to", "return_path")
    @classmethod
    def _check_address(cls, value: str | None) -> str | None:
        return normalize_address(value) if value is not None else None

    @field_validator("reply_secrets", "raw_secrets")
    @classmethod
    def _check_secrets(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(secret.get_secret_value()) < MIN_SECRET_LENGTH for secret in value):
            raise ValueError(f"a secret must have at least {MIN_SECRET_LENGTH} characters")
        return value

    @field_validator("sendgrid_public_keys")
    @classmethod
    def _check_public_keys(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in value:
            public_key(key.get_secret_value())
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        _check_plain("smtp", self.smtp_security, self.smtp_host)
        _check_credentials("smtp", self.smtp_username, self.smtp_password)
        if self.reply_secrets and len(self.reply_address.partition("@")[0].encode()) > MAX_BASE_OCTETS:
            raise ValueError(
                f"channels.email.reply_to: to be tagged, the address may have at most {MAX_BASE_OCTETS} octets before the @; "
                "set a shorter one, or unset WAKELOOP_EMAIL_REPLY_SECRET"
            )
        if self.inbound == "imap" or self.imap_sent_folder is not None:
            if self.imap_host is None:
                raise ValueError(
                    "set channels.email.imap_host in wakeloop.toml: the server that has the mailbox"
                )
            _check_plain("imap", self.imap_security, self.imap_host)
            if self.imap_username is None or self.imap_password is None:
                raise ValueError(
                    "set channels.email.imap_username in wakeloop.toml and WAKELOOP_EMAIL_IMAP_PASSWORD in the environment"
                )
        proofs = _PROOFS.get(self.inbound or "", ())
        if proofs and not any(getattr(self, name) for name in proofs):
            variables = " or ".join(f"WAKELOOP_EMAIL_{name.removesuffix('s').upper()}" for name in proofs)
            raise ValueError(
                f'channels.email.inbound = "{self.inbound}" needs what its requests are known by: set {variables} in the environment'
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether the host is this machine, by its name or number."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def _take_apart(
    values: dict[str, Any],
    protocol: str,
    schemes: Mapping[str, Security],
    ports: Mapping[Security, int],
    *,
    default: Security,
) -> None:
    url = values.get(f"{protocol}_url")
    if url:
        for name, value in _parts_of(str(url), protocol, schemes).items():
            if values.get(f"{protocol}_{name}") is not None and name != "security":
                raise ValueError(
                    f"set channels.email.{protocol}_url or channels.email.{protocol}_{name}, not both"
                )
            values.setdefault(f"{protocol}_{name}", value)
    security = values.setdefault(f"{protocol}_security", default)
    chosen = next((port for name, port in ports.items() if name == security), ports[default])
    values.setdefault(f"{protocol}_port", chosen)


def _parts_of(url: str, protocol: str, schemes: Mapping[str, Security]) -> dict[str, Any]:
    """What a URL says, by the settings' names without the protocol's."""
    where = f"channels.email.{protocol}_url"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"{where}: that is no URL") from None
    if parts.scheme not in schemes or not parts.hostname or parts.path.strip("/") or parts.query:
        examples = " or ".join(f"{scheme}://user@mail.example.com" for scheme in schemes)
        raise ValueError(f"{where}: it must look like {examples}")
    if parts.password is not None:
        variable = f"WAKELOOP_EMAIL_{protocol.upper()}_PASSWORD"
        raise ValueError(f"{where}: leave the password out, and set {variable} in the environment")
    found: dict[str, Any] = {"host": parts.hostname, "security": schemes[parts.scheme]}
    if port is not None:
        found["port"] = port
    if parts.username:
        found["username"] = unquote(parts.username)
    return found


def _check_plain(protocol: str, security: Security, host: str) -> None:
    if security == "none" and not is_loopback(host):
        raise ValueError(
            f'channels.email.{protocol}_security: "none" is only for a server on this machine; set "starttls" or "tls"'
        )


def _check_credentials(protocol: str, username: str | None, password: SecretStr | None) -> None:
    if (username is None) != (password is None):
        variable = f"WAKELOOP_EMAIL_{protocol.upper()}_PASSWORD"
        raise ValueError(f"set channels.email.{protocol}_username and {variable} together, or neither")
