"""`GET /metrics`: how the store stands and what this process counts, for Prometheus; for who may know that only."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from wakeloop.gauges import Gauges
from wakeloop.tokens import Scope
from wakeloop.web.access import is_local, peer_of
from wakeloop.web.limits import FailureLimit, whose
from wakeloop.wiring import Runtime


def metrics_router(runtime: Runtime, wrong_tokens: FailureLimit) -> APIRouter:
    """The route. Open to programs on this machine under the same conditions as the operator's pages; to everybody else
    with a token of scope `runs:read` or `admin`, as `Authorization: Bearer wl_…`. wrong_tokens: the limit of the API, which counts here, too."""
    router = APIRouter(include_in_schema=False)
    gauges = Gauges(runtime.database, lease_seconds=runtime.settings.lease_seconds)

    @router.get("/metrics")
    def metrics(request: Request) -> Response:
        peer = whose(peer_of(runtime.settings, request))
        if wait := wrong_tokens.refusal_seconds(peer):
            return Response(status_code=HTTPStatus.TOO_MANY_REQUESTS, headers={"retry-after": str(wait)})
        if not _may(runtime, request):
            wrong_tokens.fail(peer)
            return Response(
                "metrics need a token of scope runs:read\n",
                status_code=HTTPStatus.UNAUTHORIZED,
                headers={"www-authenticate": 'Bearer realm="wakeloop"'},
                media_type="text/plain",
            )
        return Response(gauges.render(), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    return router


def _may(runtime: Runtime, request: Request) -> bool:
    given = request.headers.get("authorization")
    if given is None:
        return is_local(runtime.settings, request)
    scheme, _, secret = given.partition(" ")
    token = runtime.tokens.check(secret.strip()) if scheme.lower() == "bearer" else None
    return token is not None and token.allows(Scope.RUNS_READ)
