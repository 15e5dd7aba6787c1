"""Where `celery -A wakeloop worker` and `celery -A wakeloop flower` find the app.

`app` is made from the settings when it is first asked for; importing this module reads nothing and connects nowhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError
from .garbage import collect_seldom

if TYPE_CHECKING:
    from .celery_app import App
    from .dispatch import Host
    from .settings import Settings


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Before the rest is imported, which is most of a worker's start.
    collect_seldom()
    from .celery_app import log_json
    from .flower_guard import guard_flower
    from .wiring import load_settings, make_host

    try:
        settings = load_settings()
    except ConfigurationError as error:
        # The celery command would show a traceback of it.
        print("wakeloop:", " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(1) from error
    if settings.log_format == "json":
        log_json()
    app = celery_app(settings, lambda: make_host(settings))
    guard_flower(app)
    globals()["app"] = app
    return app


def celery_app(settings: Settings, host: Callable[[], Host]) -> App:
    """The app of these settings."""
    from .celery_app import make_app

    return make_app(
        settings.broker_url,
        queue=settings.queue,
        concurrency=settings.worker_concurrency,
        host=host,
        grace=settings.stop_grace_seconds,
        key_prefix=settings.broker_key_prefix,
        sentinel_master=settings.broker_sentinel_master,
    )
