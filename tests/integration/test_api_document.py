"""The API is as its OpenAPI document says: checked by Schemathesis, which makes calls up from the document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.integration.api_kit import Site, sites

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
EXAMPLES = 40


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One site for all calls, with a request and a run in it."""
    with sites(tmp_path_factory.mktemp("api")) as make:
        made: Site = make()
        made.ask(id="0191f6b2-2d0c-7cc2-8f5a-1f2e3d4c5b6a")
        made.post("/agents/echo/runs", {"id": "0191f6b2-2d0c-7cc2-8f5a-1f2e3d4c5b6b"})
        yield made


def test_no_call_that_the_document_allows_is_answered_with_a_5xx(site: Site) -> None:
    """And every answer has a status, a content type and a form that the document names, which is what makes calls up."""
    schema = schemathesis.openapi.from_url(f"{site.url}/api/v1/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]

    for operation in operations:
        _check(operation)

    assert len(operations) > 20


def _check(operation: Any) -> None:
    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
        phases=(Phase.explicit, Phase.generate), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy())
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS, timeout=20)

    check()


def test_the_document_is_of_openapi_3_1_with_good_names(site: Site) -> None:
    """Operation ids that can be methods' names, refusals on every operation, and no page that loads from elsewhere."""
    document = site.get("/openapi.json").json

    assert document["openapi"].startswith("3.1.")
    assert document["servers"] == [{"url": "/api/v1"}]
    operations = [one for path in document["paths"].values() for one in path.values()]
    names = [one["operationId"] for one in operations]
    assert len(set(names)) == len(names) and all(name.isidentifier() for name in names)
    assert {"create_request", "get_request", "start_agent", "send_signals", "get_session"} <= set(names)
    for one in operations:
        assert {"400", "401", "403", "413", "415", "422", "503"} <= one["responses"].keys()
        assert one["security"] and all(set(need) == {"token"} for need in one["security"])
        assert "Scope" in one["description"]
    for made in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(made)
