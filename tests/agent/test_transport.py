"""Whom the agent talks to: nobody before the certificate, the key and the way are as they should be."""

import argparse
import asyncio
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus, WebSocketException

from agent import transport
from agent.link import Identity
from agent.reconnect import ask_why
from agent.transport import Distrusted, Trust, pin
from agent.wire.hosts import is_loopback
from tests.tls import Authority, Certificate, recording

TOKEN = "the-token"
PIN = "sha256/" + "A" * 43 + "="
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\n\r\n"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def own(authority: Authority) -> Certificate:
    """The certificate of our server, which goes by this machine's name."""
    return authority.issue("localhost")


async def dial(port: int, trust: Trust, scheme: str = "wss", host: str = "localhost") -> None:
    await trust.dial(f"{scheme}://{host}:{port}/", additional_headers=HEADERS)


async def ask(port: int, trust: Trust) -> None:
    request = urllib.request.Request(f"https://localhost:{port}/", headers=HEADERS)
    await asyncio.to_thread(trust.opener(request.full_url).open, request, timeout=20)


# Which ways are open ------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.8.7", "::1"])
def test_this_machine_is_known_by_its_spelling(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "", "localhost.", "localhost.evil.example", "0.0.0.0", "::", "127.1", "0x7f.0.0.1",
        "128.0.0.1", "10.0.0.1", "files.example.com", "ip6-localhost", "127.0.0.1.nip.io",
    ],
)  # fmt: skip
def test_what_only_looks_like_this_machine_is_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "127.3.2.1"])
def test_without_tls_this_machine_can_be_talked_to(host: str) -> None:
    Trust().check(f"ws://{host}")


@pytest.mark.parametrize("host", ["files.example.com", "10.0.0.1:8000", "0.0.0.0", "[::]:8000"])
def test_without_tls_no_other_machine_is_talked_to_unless_that_is_said(host: str) -> None:
    with pytest.raises(ValueError, match=r"wss://, or --allow-insecure"):
        Trust().check(f"ws://{host}")
    Trust(allow_insecure=True).check(f"ws://{host}")


def test_a_pin_or_an_authority_without_tls_is_a_mistake_that_is_said(tmp_path: Path) -> None:
    for trust in (Trust(pins=(pin(PIN),)), Trust(ca_file=tmp_path)):
        with pytest.raises(ValueError, match="has no TLS"):
            trust.check("ws://localhost:8000")


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_an_authority_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=rf"--ca-file {file} cannot be used: .+ in PEM\."):
        Trust(ca_file=file).check("wss://localhost")


@pytest.mark.parametrize(
    "text",
    [
        "", "sha256/", "A" * 43 + "=", "sha256/AAAA", "sha1/" + "A" * 27 + "=",
        "sha256//" + "A" * 43 + "=", PIN[:-1], PIN + "A", PIN.replace("A", "-"), PIN + " ", "sha256/ä",
    ],
)  # fmt: skip
def test_what_is_no_pin_is_refused_with_what_a_pin_looks_like(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="it looks like sha256/"):
        pin(text)


def test_the_flags_make_the_trust(tmp_path: Path, authority: Authority) -> None:
    parser = argparse.ArgumentParser()
    transport.add_arguments(parser)
    other = PIN.replace("A=", "E=")
    given = parser.parse_args(["--ca-file", str(authority.file), "--pin", PIN, "--pin", other])
    trust = transport.trust(given, "wss://localhost")
    assert trust == Trust(authority.file, (bytes(32), bytes(31) + b"\x01"))
    assert transport.trust(parser.parse_args([]), "wss://localhost") == Trust()


# Certificates -------------------------------------------------------------------------------------


async def test_a_certificate_of_our_authority_is_trusted(
    authority: Authority, own: Certificate
) -> None:
    with recording(own, FORBIDDEN) as server:
        with pytest.raises(InvalidStatus):
            await dial(server.port, Trust(authority.file))
        with pytest.raises(urllib.error.HTTPError) as refused:
            await ask(server.port, Trust(authority.file))
        refused.value.close()
    assert server.told.count(b"Bearer the-token") == 2


async def refuses(server: int, trust: Trust, reason: str, host: str = "localhost") -> None:
    """Neither the WebSocket nor the question by HTTP goes through, for this reason."""
    with pytest.raises(Distrusted, match=reason):
        await dial(server, trust, host=host)
    answer = await asyncio.to_thread(
        ask_why, Identity(f"wss://{host}:{server}", "client1", TOKEN, trust)
    )
    assert not answer.code


async def test_a_certificate_of_an_authority_that_is_not_ours_gets_no_token(
    tmp_path: Path, authority: Authority, own: Certificate
) -> None:
    with recording(own) as server:
        await refuses(server.port, Trust(), "unable to get local issuer certificate")
        await refuses(server.port, Trust(Authority(tmp_path).file), "issued by organizationName=")
        server.wait(connections=4)
    assert server.told == b""


async def test_with_an_authority_of_our_own_those_of_the_system_do_not_count(
    tmp_path: Path, authority: Authority, own: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with recording(own, FORBIDDEN) as server:
        with pytest.raises(InvalidStatus):
            await dial(server.port, Trust())
        heard = server.told
        await refuses(server.port, Trust(Authority(tmp_path).file), "unable to get local issuer")
    assert server.told == heard


async def test_a_certificate_for_another_host_gets_no_token(authority: Authority) -> None:
    with recording(authority.issue("files.example.com")) as server:
        reason = r"not valid for 'localhost'\. It presented a certificate for files\.example\.com,"
        await refuses(server.port, Trust(authority.file), reason)
        server.wait(connections=2)
    assert server.told == b""


async def test_a_certificate_that_has_expired_gets_no_token(authority: Authority) -> None:
    with recording(authority.issue("localhost", expired=True)) as server:
        reason = r"certificate has expired\. It presented .+ until .+this machine's clock"
        await refuses(server.port, Trust(authority.file), reason)
        server.wait(connections=2)
    assert server.told == b""


async def test_what_a_certificate_says_of_itself_cannot_move_the_terminal(tmp_path: Path) -> None:
    hosts = [f"host{number}.example" for number in range(300)]
    certificate = Authority(tmp_path).issue(*hosts)
    with recording(certificate) as server, pytest.raises(Distrusted) as refused:
        await dial(server.port, Trust())
    assert "host4.example, …" in str(refused.value)
    assert "host5.example" not in str(refused.value)
    assert "\\x1b[2J" in transport._about({"subjectAltName": [("DNS", "\x1b[2J")]})


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_tls_older_than_1_2_is_not_spoken(authority: Authority, own: Certificate) -> None:
    with recording(own, newest=ssl.TLSVersion.TLSv1_1) as server:
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
            await dial(server.port, Trust(authority.file))
        server.wait(connections=1)
    assert server.handshakes == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_pins_hold_in_every_version_of_tls(
    authority: Authority, own: Certificate, version: ssl.TLSVersion
) -> None:
    with recording(own, FORBIDDEN, newest=version) as server:
        with pytest.raises(Distrusted):
            await dial(server.port, Trust(authority.file, (bytes(32),)))
        server.wait(connections=1)
        assert server.told == b""
        with pytest.raises(InvalidStatus):
            await dial(server.port, Trust(authority.file, (pin(own.pin),)))


async def test_keys_of_the_session_are_not_written_anywhere(
    tmp_path: Path, authority: Authority, own: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can set a variable of the environment could read the token on the wire otherwise."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    with recording(own) as server:
        with pytest.raises(WebSocketException):
            await dial(server.port, Trust(authority.file))
        await asyncio.to_thread(
            ask_why, Identity(f"wss://localhost:{server.port}", "c", TOKEN, Trust(authority.file))
        )
        server.wait(connections=2)
    assert not (tmp_path / "keys").exists()


# Pins ---------------------------------------------------------------------------------------------


async def test_a_key_that_is_not_pinned_gets_no_token(
    authority: Authority, own: Certificate
) -> None:
    """Although the chain is in order: the authority may have been tricked."""
    with recording(own) as server:
        trust = Trust(authority.file, (pin(PIN), bytes(range(32))))
        await refuses(server.port, trust, rf"It presented {re.escape(own.pin)} ")
        server.wait(connections=2)
    assert server.told == b""


async def test_a_pin_does_not_stand_in_for_the_chain(own: Certificate) -> None:
    with recording(own) as server:
        await refuses(server.port, Trust(pins=(pin(own.pin),)), "unable to get local issuer")
        server.wait(connections=2)
    assert server.told == b""


async def test_any_of_the_pins_will_do(authority: Authority, own: Certificate) -> None:
    for pins in ((pin(own.pin), pin(PIN)), (pin(PIN), pin(own.pin))):
        with recording(own, FORBIDDEN) as server:
            with pytest.raises(InvalidStatus):
                await dial(server.port, Trust(authority.file, pins))
            with pytest.raises(urllib.error.HTTPError) as refused:
                await ask(server.port, Trust(authority.file, pins))
            refused.value.close()


async def test_a_renewed_certificate_keeps_its_pin_and_a_new_key_does_not(
    authority: Authority, own: Certificate
) -> None:
    assert authority.renew(own).pin == own.pin != authority.issue("localhost").pin
    renewed = authority.renew(own)
    with recording(renewed, FORBIDDEN) as server, pytest.raises(InvalidStatus):
        await dial(server.port, Trust(authority.file, (pin(own.pin),)))


def test_a_key_that_cannot_be_read_is_not_taken_for_a_pinned_one() -> None:
    with pytest.raises(Distrusted, match="cannot be read"):
        transport.key_digest(b"no certificate")


def test_without_pins_their_library_is_not_loaded() -> None:
    code = "import sys, agent.cli; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Redirects and proxies ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(
    authority: Authority, own: Certificate, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to another host, not on the same one, and whatever the environment says of it."""
    monkeypatch.setattr("websockets.asyncio.client.MAX_REDIRECTS", 20)
    with recording(own) as elsewhere:
        place = f"https://localhost:{elsewhere.port}/".encode()
        redirect = b"HTTP/1.1 %d Moved\r\nLocation: %s\r\n\r\n" % (status, place)
        with recording(own, redirect) as server:
            with pytest.raises(InvalidStatus):
                await dial(server.port, Trust(authority.file))
            with pytest.raises(urllib.error.HTTPError) as refused:
                await ask(server.port, Trust(authority.file))
            refused.value.close()
            server.wait(connections=2)
    assert server.told.count(b"GET ") == 2
    assert elsewhere.connections == 0


async def test_what_is_for_this_machine_does_not_go_through_a_proxy(
    own: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the proxy of the environment would get the token in clear."""
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy")
    with recording(None) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        with recording(None, FORBIDDEN) as server:
            with pytest.raises(InvalidStatus):
                await dial(server.port, Trust(), scheme="ws")
            await asyncio.to_thread(
                ask_why, Identity(f"ws://localhost:{server.port}", "client1", TOKEN)
            )
            server.wait(connections=2)
    assert proxy.connections == 0
    assert server.told.count(b"Bearer the-token") == 2
