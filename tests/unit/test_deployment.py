"""The files of a deployment agree with the code, with each other, and with what is promised of them."""

from __future__ import annotations

import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import flower.options
import pytest
import yaml

from wakeloop.celery_app import STOP_GRACE_SECONDS
from wakeloop.settings import Settings
from wakeloop.settings_sources import PREFIX
from wakeloop.web.app import make_app
from wakeloop.wiring import Runtime

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
TEMPLATE = ROOT / "runtime" / "wakeloop" / "template"
FILES = [COMPOSE, TEMPLATE / "docker-compose.yml"]
OURS = ("migrate", "worker", "web", "flower")
IMAGES_OWN = {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "REDISCLI_AUTH"}

_DURATION = re.compile(r"(\d+)s")


@pytest.fixture(params=FILES, ids=["repository", "project of init"])
def services(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(request.param.read_text())["services"]
    return found


def dockerfile() -> list[list[str]]:
    """The instructions, each as its words."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_every_variable_is_a_setting_of_wakeloop_or_flower_or_of_the_image(services: dict[str, Any]) -> None:
    """A variable that is misspelt would leave a default in force."""
    for name, service in services.items():
        for variable in service.get("environment", {}):
            if variable.startswith(PREFIX):
                assert variable.removeprefix(PREFIX).lower() in Settings.model_fields, f"{name}: {variable}"
            elif variable.startswith("FLOWER_"):
                assert variable.removeprefix("FLOWER_").lower() in flower.options.options, (
                    f"{name}: {variable}"
                )
            else:
                assert variable in IMAGES_OWN, f"{name}: {variable}"


def test_images_have_explicit_tags_and_no_service_runs_as_root(services: dict[str, Any]) -> None:
    """`latest`, and an image's default user, change without anybody deciding it."""
    for name, service in services.items():
        _, _, tag = service["image"].partition(":")
        assert re.search(r"\d", tag), f"{name}: {service['image']}"
        assert service["user"] not in ("", "0", "root"), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name


def test_every_service_is_supervised_and_checked(services: dict[str, Any]) -> None:
    """All but the one that migrates are started again when they end, and have a health check; commands are lists."""
    for name, service in services.items():
        assert isinstance(service["command"], list), name
        if name == "migrate":
            assert service["restart"] == "no"
        else:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"][0] == "CMD", name
        for published in service.get("ports", []):
            assert published.startswith("127.0.0.1:"), f"{name} would be reachable without HTTPS: {published}"


def test_services_have_longer_to_stop_than_a_worker_takes(services: dict[str, Any]) -> None:
    """Else SIGKILL would take from a worker the turns that it was about to hand back."""
    for name in OURS:
        grace = _DURATION.fullmatch(services[name]["stop_grace_period"])
        assert grace is not None
        assert int(grace[1]) >= 3 * STOP_GRACE_SECONDS


def test_redis_refuses_rather_than_evicts_and_writes_what_it_holds(services: dict[str, Any]) -> None:
    """Queues that were evicted would be handed over again, late."""
    command = services["redis"]["command"][-1]

    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_both_compose_files_are_the_same_but_for_the_image() -> None:
    """A project's own deployment is the tested one."""
    ours, theirs = (yaml.safe_load(file.read_text()) for file in FILES)
    for services in (ours["services"], theirs["services"]):
        for name in OURS:
            del services[name]["image"], services[name]["build"]
    for one in (ours, theirs):
        del one["name"], one["x-wakeloop"]

    assert ours == theirs


def test_both_examples_of_env_ask_for_the_same() -> None:
    """What must be filled in is what both compose files require."""
    required = [
        set(re.findall(r"\$\{(\w+):\?", file.read_text()))
        for file in (COMPOSE, TEMPLATE / "docker-compose.yml")
    ]
    asked = [
        set(re.findall(r"^(\w+)=$", file.read_text(), re.MULTILINE))
        for file in (ROOT / ".env.example", TEMPLATE / "env.example")
    ]

    assert required[0] == required[1] == asked[0] == asked[1]


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    """The build would fail otherwise; and .env is not in its reach."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    kept = {line[1:] for line in ignored if line.startswith("!")}

    assert ignored[0] == "*"
    assert not any(fnmatch(".env", name) for name in kept)
    for words in dockerfile():
        if words[0] != "COPY":
            continue
        assert not words[1].startswith("--from")
        for source in words[1:-1]:
            assert (ROOT / source).exists(), source
            assert source in kept, f"{source} is not sent to the build"


def test_the_image_is_small_and_does_not_run_as_root() -> None:
    """Two stages, of which the last starts from a slim image and ends as another user; commands in exec form."""
    instructions = dockerfile()
    stages = [words for words in instructions if words[0] == "FROM"]
    users = [words[1] for words in instructions if words[0] == "USER"]
    commands = [words for words in instructions if words[0] in ("CMD", "ENTRYPOINT")]

    assert len(stages) == 2
    assert all(re.search(r":[\d.]+-slim", words[1]) for words in stages)
    assert stages[0][-2:] == ["AS", "build"]
    assert users == ["10001"]
    assert all(words[1].startswith("[") for words in commands)
    assert any("constraints.txt" in words for words in instructions if words[0] == "RUN")


def test_the_image_has_the_projects_version_and_a_python_that_it_supports() -> None:
    """What is released is what is built."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    pythons = {re.search(r"python:(\d+\.\d+)", words[1])[1] for words in dockerfile() if words[0] == "FROM"}  # type: ignore[index]

    assert {services[name]["image"] for name in OURS} == {f"wakeloop:{project['version']}"}
    assert len(pythons) == 1
    assert f"Programming Language :: Python :: {pythons.pop()}" in project["classifiers"]


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    """The Kubernetes objects of docs/deploy.md."""
    blocks = re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "docs" / "deploy.md").read_text(), re.MULTILINE | re.DOTALL
    )
    return [one for block in blocks for one in yaml.safe_load_all(block)]


def pods(manifests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        one["metadata"]["name"]: one["spec"]["template"] for one in manifests if "template" in one["spec"]
    }


def test_manifests_run_the_same_processes_as_compose(manifests: list[dict[str, Any]]) -> None:
    """Commands are those of the compose file, but for how a shell is told the name of the machine."""
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    commands = {name: pod["spec"]["containers"][0]["command"] for name, pod in pods(manifests).items()}

    assert commands["wakeloop-migrate"] == services["migrate"]["command"]
    assert commands["wakeloop-web"] == services["web"]["command"]
    worker = shlex.split(services["worker"]["command"][-1].removeprefix("exec ").replace("$$HOSTNAME", "%h"))
    assert commands["wakeloop-worker"] == worker


def test_manifests_are_of_one_piece(manifests: list[dict[str, Any]]) -> None:
    """Selectors meet labels, mounts meet volumes, and the autoscaler meets the workers."""
    found = pods(manifests)
    by_kind = {(one["kind"], one["metadata"]["name"]): one["spec"] for one in manifests}

    for name in ("wakeloop-worker", "wakeloop-web"):
        assert by_kind["Deployment", name]["selector"]["matchLabels"] == found[name]["metadata"]["labels"]
    assert by_kind["Service", "wakeloop-web"]["selector"] == found["wakeloop-web"]["metadata"]["labels"]
    web = found["wakeloop-web"]["spec"]["containers"][0]
    assert by_kind["Service", "wakeloop-web"]["ports"][0]["targetPort"] == web["ports"][0]["containerPort"]
    target = by_kind["HorizontalPodAutoscaler", "wakeloop-worker"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) in by_kind
    for pod in found.values():
        mounted = {mount["name"] for mount in pod["spec"]["containers"][0].get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in pod["spec"].get("volumes", [])}


def test_manifests_probe_what_the_web_app_answers_and_scale_by_what_is_due(
    manifests: list[dict[str, Any]],
) -> None:
    """Probes ask addresses that exist; workers have no probe that Redis could fail for the length of their lives."""
    found = pods(manifests)
    app = make_app(Runtime(Settings(database_url="sqlite://")))
    paths = {getattr(route, "path", None) for route in app.routes}
    (web,), (worker,) = (found[name]["spec"]["containers"] for name in ("wakeloop-web", "wakeloop-worker"))
    (scaler,) = (one["spec"] for one in manifests if one["kind"] == "HorizontalPodAutoscaler")

    assert web["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert web["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert {"/readyz", "/healthz"} <= paths
    assert "livenessProbe" not in worker
    assert {one["external"]["metric"]["name"] for one in scaler["metrics"]} == {
        "wakeloop_due_sessions",
        "wakeloop_due_lag_seconds",
    }
    for variable in (one["name"] for one in web["env"]):
        assert variable.removeprefix(PREFIX).lower() in Settings.model_fields


def test_manifests_run_nothing_as_root_and_leave_time_to_stop(manifests: list[dict[str, Any]]) -> None:
    """As in compose."""
    for name, pod in pods(manifests).items():
        spec = pod["spec"]
        assert spec["securityContext"] == {"runAsNonRoot": True, "runAsUser": 10001}, name
        assert re.search(r":\d", spec["containers"][0]["image"]), name
        if name != "wakeloop-migrate":
            assert spec["terminationGracePeriodSeconds"] >= 3 * STOP_GRACE_SECONDS, name
            assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True, name
