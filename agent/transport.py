"""The way to the server: TLS, whom to believe at its end, and that nothing leads elsewhere.

What crosses the wire first is the client's token. So no byte of HTTP is sent before the certificate is
verified and the key pinned, no redirect is followed, and without TLS only this machine is talked to.
"""

import argparse
import base64
import hashlib
import ssl
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import connect

from .wire.display import shown
from .wire.hosts import is_loopback

PIN_PREFIX = "sha256/"
NAMES_SHOWN = 5
"""So many of a certificate's host names are said; whoever presents it decides how many it has."""


class Distrusted(ssl.SSLCertVerificationError):
    """Who answers is not shown to be our server: nothing was sent to it.

    An `SSLError`, because that is what asyncio's and `http.client`'s handshakes hand on.
    """


@dataclass(frozen=True)
class Trust:
    """What the agent asks of the other end before it says a word."""

    ca_file: Path | None = None
    """The only authorities that count, in PEM; None: those of the system."""
    pins: tuple[bytes, ...] = ()
    """SHA-256 of the SubjectPublicKeyInfo (RFC 7469, 2.4): the server's key must be one of these, if any."""
    allow_insecure: bool = False
    """Whether `ws://` may leave this machine."""

    def check(self, server: str) -> None:
        """Raises ValueError, with a sentence, where this server could not be trusted like that."""
        parts = urlsplit(server)
        if parts.scheme == "wss":
            if self.ca_file:
                self._check_authorities()
            return
        if self.ca_file or self.pins:
            raise ValueError(f"--server {server} has no TLS, so --ca-file and --pin mean nothing.")
        if not (is_loopback(parts.hostname or "") or self.allow_insecure):
            raise ValueError(
                f"--server {server}: without TLS, the token and the files could be read on the way. Use "
                "wss://, or --allow-insecure if the way itself is safe."
            )

    def _check_authorities(self) -> None:
        try:
            self.tls()
        except OSError as error:  # an SSLError is one, too
            raise ValueError(
                f"--ca-file {self.ca_file} cannot be used: {error.strerror or error}. It must hold the "
                "certificates of authorities, in PEM."
            ) from None

    def tls(self) -> "PinnedContext":
        """For one connection, so that a CA file that was renewed counts. Raises OSError."""
        # Not ssl.create_default_context: it would write the session's keys to SSLKEYLOGFILE.
        context = PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.pins = self.pins
        if self.ca_file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile=self.ca_file)
        return context

    def opener(self, url: str) -> urllib.request.OpenerDirector:
        """What asks `url` over HTTP. Raises OSError."""
        parts = urlsplit(url)
        handlers: list[Any] = [_NoRedirect]
        if parts.scheme == "https":
            handlers.append(urllib.request.HTTPSHandler(context=self.tls()))
        if is_loopback(parts.hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))
        return urllib.request.build_opener(*handlers)

    def dial(self, url: str, **options: Any) -> connect:
        """What opens a WebSocket to `url`, to be awaited. Raises OSError."""
        parts = urlsplit(url)
        if parts.scheme == "wss":
            options["ssl"] = self.tls()
        if is_loopback(parts.hostname or ""):
            options["proxy"] = None  # a proxy is another machine
        return _Straight(url, **options)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry our token to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class _Straight(connect):
    """As above; `connect` of websockets follows ten redirects by default."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


# The handshake ----------------------------------------------------------------------------------


class PinnedContext(ssl.SSLContext):
    """Verifies the chain and the host name, as always, and then the server's own key."""

    pins: tuple[bytes, ...] = ()


class _PinnedObject(ssl.SSLObject):
    """For asyncio."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as error:
            raise _distrusted(error, self) from None
        check_pins(self)


class _PinnedSocket(ssl.SSLSocket):
    """For urllib."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except ssl.SSLCertVerificationError as error:
            raise _distrusted(error, self) from None
        check_pins(self)


PinnedContext.sslobject_class = _PinnedObject
PinnedContext.sslsocket_class = _PinnedSocket


def check_pins(connection: ssl.SSLObject | ssl.SSLSocket) -> None:
    """Whether the other end's key is a pinned one, where any is. Raises Distrusted."""
    pins = getattr(connection.context, "pins", ())
    if not pins:
        return
    presented = key_digest(connection.getpeercert(binary_form=True) or b"")
    if presented not in pins:
        raise Distrusted(
            f"the server's key is not a pinned one. It presented {pin_text(presented)} "
            f"({_about(connection.getpeercert() or {})}). If the "
            "server has a new key, give it to --pin; if not, somebody else answers in its place"
        )


def key_digest(certificate: bytes) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo of a certificate in DER. Raises Distrusted."""
    from cryptography import x509  # noqa: PLC0415  # only who pins needs the library
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
        info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Distrusted(f"the server's key cannot be read, so not be pinned: {error}") from None
    return hashlib.sha256(info).digest()


def _distrusted(error: ssl.SSLCertVerificationError, connection: Any) -> Distrusted:
    # Python 3.11 has the chain of a handshake that failed only here; without it the reason must do.
    chain: list[Any] = getattr(connection._sslobj, "get_unverified_chain", list)() or []
    presented = f" It presented {_about(chain[0].get_info())}." if chain else ""
    return Distrusted(
        f"the server's certificate is not to be trusted: {error.verify_message.rstrip('.')}.{presented} "
        "Mend the server's certificate, the host in --server or this machine's clock; or give "
        "--ca-file the authority that signed it"
    )


def _about(certificate: Mapping[str, Any]) -> str:
    """A line on a certificate, as `ssl` decodes them. It may be anybody's, so nothing in it is believed."""
    names = [str(value) for _, value in certificate.get("subjectAltName", ())]
    more = ", …" if len(names) > NAMES_SHOWN else ""
    return shown(
        f"a certificate for {', '.join(names[:NAMES_SHOWN]) or 'no host'}{more}, "
        f"issued by {_name(certificate.get('issuer', ())) or 'nobody'}, "
        f"valid from {certificate.get('notBefore', '?')} until {certificate.get('notAfter', '?')}"
    )


def _name(distinguished: Sequence[Sequence[Sequence[str]]]) -> str:
    return ", ".join(f"{key}={value}" for part in distinguished for key, value in part)


# The command line -------------------------------------------------------------------------------


def pin(text: str) -> bytes:
    """`sha256/BASE64`, as in RFC 7469. Raises ArgumentTypeError."""
    try:
        digest = base64.b64decode(text.removeprefix(PIN_PREFIX), validate=True)
    except ValueError:
        digest = b""
    if not text.startswith(PIN_PREFIX) or len(digest) != hashlib.sha256().digest_size:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no pin: it looks like sha256/ and 44 characters of Base64, the SHA-256 of the "
            "server's public key"
        )
    return digest


def pin_text(digest: bytes) -> str:
    """What `pin` reads."""
    return f"{PIN_PREFIX}{base64.b64encode(digest).decode()}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `trust` reads."""
    parser.add_argument(
        "--ca-file",
        type=Path,
        metavar="FILE",
        help="the only authorities that may sign the server's certificate (default: the system's)",
    )
    parser.add_argument(
        "--pin",
        type=pin,
        action="append",
        default=[],
        metavar="sha256/BASE64",
        help="the server's public key must have this SHA-256, too (again: another that it may have)",
    )
    parser.add_argument(
        "--allow-insecure",
        action="store_true",
        help="let ws:// leave this machine: the token and the files can be read on the way",
    )


def trust(arguments: argparse.Namespace, server: str, kept: Trust | None = None) -> Trust:
    """What the command line says, else what was kept of this server since an earlier one said it.

    Raises ValueError, with a sentence, if it makes no sense.
    """
    kept = kept or Trust()
    trusted = Trust(
        arguments.ca_file.absolute() if arguments.ca_file else kept.ca_file,
        tuple(arguments.pin) or kept.pins,
        arguments.allow_insecure or kept.allow_insecure,
    )
    trusted.check(server)
    return trusted
