"""Keeps `celery -A wakeloop flower` from being open to others: without a login it serves this machine only.

By itself Flower listens on every address, and without a login its pages can be read, and workers stopped, by anybody.
"""

from __future__ import annotations

import sys
from typing import Any

import click
from celery import Celery
from celery.signals import import_modules

from wakeloop.errors import ConfigurationError
from wakeloop.wiring import is_loopback

LOOPBACK = "127.0.0.1"


def guard_flower(app: Celery) -> None:
    """Have Flower's options checked when it starts with this app. Other commands of Celery are not touched."""
    # Flower sends this when it has read all of its options, and before it listens.
    import_modules.connect(_at_start, sender=app, weak=False, dispatch_uid="wakeloop.flower_guard")


def check(options: Any) -> None:
    """Raise ConfigurationError for options with which others could use Flower without a login. `options` are Flower's;
    if they name no address and no login, the address becomes this machine's own."""
    for login in options.basic_auth or ():
        user, _, password = login.partition(":")
        if not (user and password):
            raise ConfigurationError("a login of Flower must be USER:PASSWORD; correct FLOWER_BASIC_AUTH")
    if options.basic_auth or options.auth or options.unix_socket:
        return
    if not options.address:
        options.address = LOOPBACK
    elif not is_loopback(options.address):
        raise ConfigurationError(
            f"Flower would be open to everybody at {options.address}; "
            "set FLOWER_BASIC_AUTH=USER:PASSWORD, or listen with --address=127.0.0.1"
        )


def _at_start(**_: Any) -> None:
    context = click.get_current_context(silent=True)
    if context is None or context.info_name != "flower":
        return
    from flower.options import options

    try:
        check(options)
    except ConfigurationError as error:
        print("wakeloop:", error, file=sys.stderr, flush=True)
        raise SystemExit(1) from error
