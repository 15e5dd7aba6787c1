"""Where `celery -A wakeloop worker` and `celery -A wakeloop flower` find the app.

`app` is made from the settings when it is first asked for; importing this module reads nothing and connects nowhere.
"""

from __future__ import annotations

import sys
from typing import Any

from .errors import ConfigurationError


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .celery_app import log_json, make_app
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
    app = make_app(
        settings.broker_url,
        queue=settings.queue,
        concurrency=settings.worker_concurrency,
        host=lambda: make_host(settings),
        grace=settings.stop_grace_seconds,
        key_prefix=settings.broker_key_prefix,
        sentinel_master=settings.broker_sentinel_master,
    )
    guard_flower(app)
    globals()["app"] = app
    return app
