"""Agents pull files through real TLS, daphne's own and nginx's, and tell a token to nobody else."""

import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import PATIENCE, PROJECT, Program, Server, make_file, sha256
from tests.end_to_end.tls import OPERATIONS, NginxServer, TlsServer, blocks, section
from tests.tls import Authority, Certificate, Recording, recording

MIB = 1 << 20
TOKEN = "a-token-that-nobody-else-may-see"
NO_PIN = "sha256/" + "A" * 43 + "="
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def certificate(authority: Authority) -> Certificate:
    return authority.issue("localhost")


@pytest.fixture
def own(tmp_path: Path, authority: Authority, certificate: Certificate) -> Iterator[TlsServer]:
    """A server that speaks TLS itself."""
    server = TlsServer(tmp_path / "server", authority, certificate)
    server.start()
    yield server
    assert server.program.terminate() == 0
    assert "Traceback" not in server.program.output, server.program.output


@pytest.fixture
def behind_nginx(
    tmp_path: Path, authority: Authority, certificate: Certificate
) -> Iterator[NginxServer]:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed; `make system-deps` does it")
    server = NginxServer(tmp_path / "server", authority, certificate)
    server.start()
    yield server
    server.stop()
    assert server.program.terminate() == 0
    assert "Traceback" not in server.program.output, server.program.output


@pytest.fixture(params=["own", "behind_nginx"])
def server(request: pytest.FixtureRequest) -> Any:
    """Both ways, one after the other."""
    return request.getfixturevalue(request.param)


def options(authority: Authority, *pins: str) -> list[str]:
    return ["--ca-file", str(authority.file), *(word for pin in pins for word in ("--pin", pin))]


# A file through TLS -------------------------------------------------------------------------------


def test_a_file_arrives_whole_and_is_fetched_in_part(
    server: Server, start_agent: StartAgent, tmp_path: Path, authority: Authority
) -> None:
    """100 MiB up by WebSocket, and a range of it down by HTTP."""
    source = make_file(tmp_path / "data.bin", 100 * MIB)
    token = server.manage("add_client", "client1", "--token")
    agent = start_agent(
        "client1", token, server.port, server="wss://localhost", options=options(authority),
        file=source,
    )  # fmt: skip
    agent.wait_for("registered as client1")
    transfer = server.ask("client1")
    server.wait_landed(transfer, source)
    url = f"{server.url}/api/v1/transfers/{transfer}/content/"
    headers = {
        "Authorization": f"Token {server.token}",
        "Range": f"bytes={50 * MIB}-{60 * MIB - 1}",
    }
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=PATIENCE, context=server.context) as part:
        assert part.status == 206
        assert part.headers["Content-Range"] == f"bytes {50 * MIB}-{60 * MIB - 1}/{100 * MIB}"
        assert part.headers["Content-Security-Policy"].endswith("sandbox")
        with source.open("rb") as file:
            file.seek(50 * MIB)
            assert part.read() == file.read(10 * MIB)
    api = {"SILENTMODE_API_TOKEN": server.token, "SSL_CERT_FILE": str(authority.file)}
    assert server.manage("pull", "client1", "--server", server.url, **api).startswith(
        sha256(source)
    )


def test_an_agent_that_is_refused_learns_why_through_tls(
    server: Server, start_agent: StartAgent, tmp_path: Path, authority: Authority,
    certificate: Certificate,
) -> None:  # fmt: skip
    agent = start_agent(
        "client1", TOKEN, server.port, server="wss://localhost", roots=[tmp_path],
        options=options(authority, certificate.pin),
    )  # fmt: skip
    assert agent.process.wait(PATIENCE) == 3
    assert "(unauthorized)" in agent.output


def test_whom_to_trust_is_said_once_when_a_machine_enrols(
    own: TlsServer, authority: Authority, certificate: Certificate, tmp_path: Path
) -> None:
    """Also with a CA file that was named relative to where it was enrolled; and for good."""
    state = {"SILENTMODE_STATE_DIR": str(tmp_path / "state")}
    code = {**state, "SILENTMODE_CODE": own.manage("add_client", "client1")}
    trusted = ["--ca-file", os.path.relpath(authority.file, PROJECT), "--pin", certificate.pin]
    enrol = ["-m", "agent", "enrol", "--server", f"wss://localhost:{own.port}", *trusted]
    assert Program(enrol, tmp_path / "enrol.log", code).process.wait(PATIENCE) == 0
    kept = json.loads((tmp_path / "state" / "credentials.json").read_text())
    assert Path(kept["ca_file"]).is_absolute()
    source = make_file(tmp_path / "data.bin", MIB)
    command = ["-m", "agent", "--file", str(source)]
    agent = Program(command, tmp_path / "agent.log", state)
    own.wait_landed(own.ask("client1"), source)
    own.manage("rotate_token", "client1")
    agent.wait_for("took a new token")
    agent.terminate()
    agent = Program([*command, "--pin", NO_PIN], tmp_path / "agent.log", state)
    agent.wait_for("not a pinned one")
    agent.terminate()
    agent = Program(command, tmp_path / "agent.log", state)
    agent.wait_for("registered as", times=2)
    agent.terminate()


def test_browsers_are_kept_on_tls(server: Server) -> None:
    connection = http.client.HTTPSConnection("localhost", server.port, context=server.context)
    connection.request("GET", "/admin/login/")
    answer = connection.getresponse()
    page = answer.read().decode()
    assert answer.status == 200
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    cookies = SimpleCookie(answer.headers["Set-Cookie"])
    [name] = cookies
    assert name == "__Host-csrftoken"
    assert cookies[name]["secure"]
    assert cookies[name]["httponly"]
    # The form works: its cookie, its token and the Origin fit one another.
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert found
    form = {"csrfmiddlewaretoken": found[1], "username": "ann", "password": "x"}
    headers = {
        "Cookie": f"{name}={cookies[name].value}",
        "Origin": server.url,
        "Content-Type": "application/x-www-form-urlencoded",
    }
    connection.request("POST", "/admin/login/", urllib.parse.urlencode(form), headers)
    answer = connection.getresponse()
    assert (answer.status, b"correct username and password" in answer.read()) == (200, True)
    connection.close()


class Mirror(NginxServer):
    application = "tests.end_to_end.mirror:application"


def test_behind_nginx_the_address_of_a_client_is_its_own(
    tmp_path: Path, authority: Authority, certificate: Certificate
) -> None:
    """Not nginx's, and not what the client says: of a request and of an agent's connection."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed; `make system-deps` does it")
    server = Mirror(tmp_path / "server", authority, certificate)
    server.start()
    try:
        forged = {"X-Forwarded-For": "203.0.113.9"}
        here = ("127.0.0.5", 0)
        connection = http.client.HTTPSConnection(
            "localhost", server.port, context=server.context, source_address=here
        )
        connection.request("GET", "/", headers=forged)
        assert connection.getresponse().read() == b"127.0.0.5"
        connection.close()
        url = f"wss://localhost:{server.port}/"
        with connect(
            url, ssl=server.context, additional_headers=forged, proxy=None, source_address=here
        ) as agent:
            assert agent.recv(PATIENCE) == "127.0.0.5"
    finally:
        server.stop()
        server.program.terminate()


def plainly(port: int, path: str) -> tuple[int, str | None]:
    """Status and Location of what is asked without TLS."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", path, headers={"Host": "localhost"})
    answer = connection.getresponse()
    connection.close()
    return answer.status, answer.headers["Location"]


def test_plain_http_is_led_to_tls(behind_nginx: NginxServer) -> None:
    """By nginx, and by the server itself if somebody gets by nginx."""
    for port in (behind_nginx.plain, behind_nginx.behind):
        assert plainly(port, "/admin/") == (301, "https://localhost/admin/")


def test_monitors_ask_for_the_health_without_tls_and_for_nothing_else(own: TlsServer) -> None:
    assert plainly(own.plain, "/healthz") == (200, None)
    for path in ("/", "/api/v1/clients/", "/ws/agent/client1/"):
        assert plainly(own.plain, path) == (301, f"https://localhost{path}")


def test_a_client_that_does_not_read_costs_no_memory_with_tls_either(
    own: TlsServer, start_agent: StartAgent, tmp_path: Path, authority: Authority
) -> None:
    source = make_file(tmp_path / "data.bin", 300 * MIB)
    token = own.manage("add_client", "client1", "--token")
    start_agent(
        "client1", token, own.port, server="wss://localhost", options=options(authority),
        file=source,
    ).wait_for("registered")  # fmt: skip
    transfer = own.ask("client1")
    own.wait_landed(transfer, source)
    before = own.program.resident
    assert own.context is not None
    with (
        socket.create_connection(("127.0.0.1", own.port), PATIENCE) as raw,
        own.context.wrap_socket(raw, server_hostname="localhost") as reader,
    ):
        reader.sendall(
            f"GET /api/v1/transfers/{transfer}/content/ HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Token {own.token}\r\nConnection: close\r\n\r\n".encode()
        )
        head = reader.recv(MIB)
        # As long as daphne would take to buffer all of it: other requests are answered meanwhile.
        for _ in range(100):
            assert own.call("GET", "/healthz")[0] == 200
        assert own.program.resident - before < 64 * MIB
        digest = hashlib.sha256(head.partition(b"\r\n\r\n")[2])
        while data := reader.recv(MIB):
            digest.update(data)
    assert digest.hexdigest() == sha256(source)


@pytest.mark.filterwarnings("ignore:ssl.OP_NO_:DeprecationWarning")
def test_tls_older_than_1_2_is_not_spoken(server: Server, authority: Authority) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.file)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.options |= ssl.OP_NO_TLSv1_2 | ssl.OP_NO_TLSv1_3
    with (
        socket.create_connection(("127.0.0.1", server.port), PATIENCE) as raw,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(raw, server_hostname="localhost")


# Pins ---------------------------------------------------------------------------------------------


def test_pins_outlive_certificates_and_let_keys_change_over(
    own: TlsServer, start_agent: StartAgent, tmp_path: Path, authority: Authority,
    certificate: Certificate,
) -> None:  # fmt: skip
    """A renewed certificate with the same key, then the second key, then one that nobody pinned."""
    token = own.manage("add_client", "client1", "--token")
    successor, stranger = authority.issue("localhost"), authority.issue("localhost")
    agent = start_agent(
        "client1", token, own.port, server="wss://localhost", roots=[tmp_path],
        options=options(authority, certificate.pin, successor.pin),
    )  # fmt: skip
    agent.wait_for("registered as client1")
    own.restart(authority.renew(certificate))
    agent.wait_for("registered as client1", times=2)
    own.restart(successor)
    agent.wait_for("registered as client1", times=3)
    own.restart(stranger)
    agent.wait_for(f"the server's key is not a pinned one. It presented {stranger.pin} ")
    own.restart(certificate)
    agent.wait_for("registered as client1", times=4)


def test_the_documented_commands_print_the_pin(
    own: TlsServer, certificate: Certificate, authority: Authority
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; `make system-deps` does it")
    of_a_server, of_a_file = blocks(section(OPERATIONS, "Pins"), "sh")
    assert "files.example.com:443" in of_a_server
    assert " key.pem " in of_a_file
    for command in (
        of_a_server.replace("files.example.com:443", f"127.0.0.1:{own.port}"),
        of_a_file.replace("key.pem", str(certificate.key)),
    ):
        done = subprocess.run(command, shell=True, check=True, capture_output=True, text=True)
        assert "sha256/" + done.stdout.strip() == certificate.pin


# Nobody else gets the token -----------------------------------------------------------------------


def hang_back(
    start_agent: StartAgent, record: Recording, reason: str, *options: str, connections: int = 1
) -> None:
    """A real agent says this about the server that records, and goes on trying."""
    agent = start_agent(
        "client1", TOKEN, record.port, server="wss://localhost", options=options,
        roots=[Path(__file__).parent],
    )  # fmt: skip
    agent.wait_for(reason)
    agent.wait_for("trying again in")
    record.wait(connections)
    assert agent.process.poll() is None


def test_an_authority_that_is_not_trusted_gets_no_token(
    start_agent: StartAgent, certificate: Certificate
) -> None:
    with recording(certificate, FORBIDDEN) as record:
        hang_back(start_agent, record, "not to be trusted: unable to get local issuer certificate")
    assert record.told == b""


def test_another_hosts_certificate_gets_no_token(
    start_agent: StartAgent, authority: Authority
) -> None:
    with recording(authority.issue("files.example.com"), FORBIDDEN) as record:
        reason = "not valid for 'localhost'. It presented a certificate for files.example.com"
        hang_back(start_agent, record, reason, *options(authority))
    assert record.told == b""


def test_an_expired_certificate_gets_no_token(
    start_agent: StartAgent, authority: Authority
) -> None:
    with recording(authority.issue("localhost", expired=True), FORBIDDEN) as record:
        hang_back(start_agent, record, "certificate has expired", *options(authority))
    assert record.told == b""


def test_a_key_that_is_not_pinned_gets_no_token(
    start_agent: StartAgent, authority: Authority, certificate: Certificate
) -> None:
    with recording(certificate, FORBIDDEN) as record:
        reason = f"the server's key is not a pinned one. It presented {certificate.pin}"
        hang_back(start_agent, record, reason, *options(authority, NO_PIN))
    assert record.told == b""


@pytest.mark.parametrize("hidden", [False, True], ids=["handshake", "question"])
def test_a_redirect_leads_the_token_nowhere(
    start_agent: StartAgent, authority: Authority, certificate: Certificate, hidden: bool
) -> None:
    """Neither the WebSocket's handshake nor the question why it was refused."""
    with recording(certificate, FORBIDDEN) as elsewhere:
        place = f"https://localhost:{elsewhere.port}/".encode()
        redirect = b"HTTP/1.1 307 Moved\r\nContent-Length: 0\r\nLocation: %s\r\n\r\n" % place
        with recording(certificate, *([FORBIDDEN] if hidden else []), redirect) as record:
            reason = "HTTP 307 when asked why" if hidden else "HTTP 307, a redirect"
            times = 2 if hidden else 1
            hang_back(start_agent, record, reason, *options(authority), connections=times)
        assert TOKEN.encode() in record.told
    assert (elsewhere.connections, elsewhere.told) == (0, b"")


def test_pull_takes_its_token_to_no_other_place_either(tmp_path: Path) -> None:
    with recording(None, FORBIDDEN) as elsewhere:
        place = f"http://127.0.0.1:{elsewhere.port}/".encode()
        redirect = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: %s\r\n\r\n" % place
        with recording(None, redirect) as record:
            server = f"http://127.0.0.1:{record.port}"
            pull = Program(
                ["manage.py", "pull", "client1", "--server", server],
                tmp_path / "pull.log",
                {"SILENTMODE_API_TOKEN": TOKEN, "SILENTMODE_DATA_DIR": str(tmp_path / "data")},
            )
            assert pull.process.wait(PATIENCE) == 1
        assert f"{server}: HTTP 302, a redirect, is not followed with the token" in pull.output
        assert TOKEN.encode() in record.told
    assert (elsewhere.connections, elsewhere.told) == (0, b"")


def test_without_tls_another_machine_gets_nothing_unless_that_is_said(
    start_agent: StartAgent, tmp_path: Path
) -> None:
    """0.0.0.0 leads here and is no name of this machine, as an agent knows it."""
    with recording(None, FORBIDDEN) as record:
        agent = start_agent("client1", TOKEN, record.port, server="ws://0.0.0.0", roots=[tmp_path])
        assert agent.process.wait(PATIENCE) == 2
        assert "Use wss://, or --allow-insecure" in agent.output
        assert (record.connections, record.told) == (0, b"")
        start_agent(
            "client1", TOKEN, record.port, server="ws://0.0.0.0", roots=[tmp_path],
            options=["--allow-insecure"],
        ).wait_for("trying again in")  # fmt: skip
        record.wait(2)
    assert TOKEN.encode() in record.told
