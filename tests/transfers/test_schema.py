"""The OpenAPI schema: generated without a complaint, complete, and browsable without the internet."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import call_command
from django.test import Client as Browser

CALLS = {
    "/download/{client_id}": {"post"},
    "/api/v1/transfers/": {"get", "post"},
    "/api/v1/transfers/batch/": {"post"},
    "/api/v1/transfers/{id}/": {"get", "patch"},
    "/api/v1/transfers/{id}/cancel/": {"post"},
    "/api/v1/transfers/{id}/retry/": {"post"},
    "/api/v1/transfers/{id}/content/": {"get"},
    "/api/v1/transfers/{id}/history/": {"get"},
    "/api/v1/transfers/{id}/hold/": {"post"},
    "/api/v1/transfers/{id}/release/": {"post"},
    "/api/v1/clients/": {"get"},
    "/api/v1/clients/{id}/": {"get", "patch"},
    "/api/v1/clients/{id}/revoke/": {"post"},
    "/api/v1/clients/{id}/approve/": {"post"},
    "/api/v1/clients/{id}/rotate/": {"post"},
    "/api/v1/events/": {"get"},
    "/api/v1/enrol/": {"post"},
}
"""The calls of design section 8, and what rights, retention and the console have added."""


@pytest.fixture
def schema() -> Any:
    response = Browser().get("/api/schema/")
    assert response.status_code == 200
    return yaml.safe_load(response.content)


def test_the_schema_is_valid_and_made_without_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "schema.yaml"
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(file))
    assert yaml.safe_load(file.read_text())["openapi"].startswith("3.")


def test_the_schema_names_every_call(schema: Any) -> None:
    said = {path.rstrip("/"): set(calls) for path, calls in schema["paths"].items()}
    for path, calls in CALLS.items():
        assert said.pop(path.rstrip("/")) == calls
    assert not said


def test_the_schema_says_that_a_token_or_a_session_is_needed(schema: Any) -> None:
    schemes = schema["components"]["securitySchemes"]
    token = next(name for name, scheme in schemes.items() if scheme["in"] == "header")
    session = next(name for name, scheme in schemes.items() if scheme["in"] == "cookie")
    assert schemes[token]["name"] == "Authorization"
    assert "Token" in schemes[token]["description"]
    for path, calls in schema["paths"].items():
        for call in calls.values():
            if path == "/api/v1/enrol/":  # for machines that have a code, and nothing else yet
                assert "security" not in call
                continue
            assert {token: []} in call["security"]
            assert {session: []} in call["security"]


def test_the_schema_says_how_calls_are_refused(schema: Any) -> None:
    for path, calls in CALLS.items():
        if "post" in calls:
            answers = next(
                each["post"]["responses"]
                for name, each in schema["paths"].items()
                if name.rstrip("/") == path.rstrip("/")
            )
            for status in ("401", "403", "404"):
                content = answers[status]["content"]["application/json"]
                assert content["schema"]["$ref"].endswith("/Error")


def test_the_schema_says_what_a_transfer_is(schema: Any) -> None:
    assert set(schema["components"]["schemas"]["Transfer"]["properties"]) == {
        "id", "client", "path", "status", "name", "size", "received", "checkpoint", "wire_bytes", "sha256",
        "source_sha256", "file", "attempts", "error", "requested_by", "created_at", "started_at",
        "finished_at", "deadline", "next_attempt_at", "reason", "held", "removed_at", "rate_limit",
            "rate", "waits_for",
    }  # fmt: skip


def test_the_docs_page_needs_nothing_from_elsewhere() -> None:
    """Servers without a way to the internet are usual here."""
    response = Browser().get("/api/docs/")
    assert response.status_code == 200
    page = response.content.decode()
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert loaded
    assert all(re.match(r"/(?!/)", url) for url in loaded), loaded
    for url in loaded:
        if url.startswith("/static/"):
            assert Browser().get(url).status_code == 200
