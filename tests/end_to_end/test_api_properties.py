"""The running API against its own schema, with calls that nobody would write (schemathesis).

`EXAMPLES=250` tries so many for each call and phase instead of the few that every run does.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.harness import AgentProgram, Server, make_file

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(3600)]

EXAMPLES = os.environ.get("EXAMPLES", "5")

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "use_after_free",
    "unsupported_method",
    "allow_header_conformance",
)
"""Not `positive_data_acceptance`: that a deadline lies ahead and a client is known, no schema can say. Not
`negative_data_rejection`: of a query parameter that comes twice the last counts, as everywhere in Django."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a client that is online, and a transfer of each kind."""
    directory = tmp_path_factory.mktemp("properties")
    server = Server(directory, SILENTMODE_RETRIES="0")
    token = server.manage("add_client", "client1", "--token")
    server.start()
    file = make_file(directory / "data.bin", 1 << 20)
    agent = AgentProgram("client1", token, server.port, directory / "agent.log", file=file)
    agent.wait_for("registered as client1")
    server.wait_landed(server.ask("client1"), file)
    server.wait_status(server.ask("client1", "/etc/shadow"), "failed")
    yield server
    agent.terminate()
    server.program.terminate()


@pytest.mark.parametrize("who", ["admin", "operator", "viewer", "nobody"])
def test_no_call_breaks_the_server_or_is_answered_outside_of_the_schema(
    server: Server, tmp_path: Path, who: str
) -> None:
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/api/schema/"),
        *("--checks", ",".join(CHECKS), "--max-examples", EXAMPLES),
        *("--continue-on-failure", "--no-color", "--request-timeout", "60"),
        *("--warnings", "off", "--generation-database", "none"),
        *("--exclude-path", "/api/v1/events/"),  # its answers have no end; test_events has it
    ]
    if who != "nobody":
        token = server.manage("add_api_token", f"{who}1", "--group", who)
        command += ["-H", f"Authorization: Token {token}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-6000:]
    found = re.search(r"(\d+) generated", said)
    assert found, said
    print(f"\n{who}: {found[1]} cases")
    assert int(found[1]) > 100
    assert server.call("GET", "/healthz")[0] == 200
    assert "Traceback" not in server.program.output
