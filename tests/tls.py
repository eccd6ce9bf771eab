"""A throw-away authority, its certificates, and a TLS server that writes down what it is told."""

import base64
import contextlib
import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

SECONDS = 20.0


@dataclass(frozen=True)
class Certificate:
    """A server's certificate with its chain, the chain alone, and the key, as files in PEM."""

    certificate: Path
    chain: Path
    key: Path

    @property
    def pin(self) -> str:
        """By the words of RFC 7469, 2.4, from the key and not from the certificate."""
        public = _key(self.key).public_key()
        info = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return "sha256/" + base64.b64encode(hashlib.sha256(info).digest()).decode()


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


class Authority:
    """Signs certificates for any host, as public ones do: by an intermediate; `file` makes it trusted."""

    def __init__(self, directory: Path) -> None:
        root = trustme.CA()
        self._ca = root.create_child_ca()
        self._directory = directory
        self._issued = 0
        self.file = directory / f"ca-{id(self)}.pem"
        root.cert_pem.write_to_path(self.file)

    def issue(self, *hosts: str, expired: bool = False) -> Certificate:
        """With a new key. An expired one ended yesterday."""
        now = datetime.now(UTC)
        leaf = self._ca.issue_cert(
            *hosts,
            not_before=now - timedelta(days=90),
            not_after=now + timedelta(days=-1 if expired else 90),
        )
        return self._written(leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes())

    def renew(self, old: Certificate) -> Certificate:
        """Another certificate for the same key and the same hosts."""
        was = x509.load_pem_x509_certificate(old.certificate.read_bytes())
        new = x509.CertificateBuilder(
            issuer_name=was.issuer,
            subject_name=was.subject,
            public_key=was.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=datetime.now(UTC) - timedelta(hours=1),
            not_valid_after=datetime.now(UTC) + timedelta(days=90),
            extensions=list(was.extensions),
        )
        ca_key = load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
        return self._written(
            new.sign(ca_key, SHA256()).public_bytes(Encoding.PEM), old.key.read_bytes()
        )

    def _written(self, certificate: bytes, key: bytes) -> Certificate:
        self._issued += 1
        place = self._directory / f"{self.file.stem}-{self._issued}"
        written = Certificate(*(place.with_suffix(end) for end in (".pem", ".chain.pem", ".key")))
        chain = self._ca.cert_pem.bytes()
        written.certificate.write_bytes(certificate + chain)
        written.chain.write_bytes(chain)
        written.key.write_bytes(key)
        return written


@dataclass
class Recording:
    """What a server was told: by TCP and, inside TLS, by HTTP."""

    port: int
    connections: int = 0
    handshakes: int = 0
    told: bytes = b""
    """What was in TLS; of a server without it, what came."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, connections: int) -> None:
        """Until so many connections have come and gone."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.connections >= connections, SECONDS)


@contextlib.contextmanager
def recording(
    certificate: Certificate | None,
    *answers: bytes,
    newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
) -> Iterator[Recording]:
    """A server, on all interfaces, that reads a request, answers, and hangs up.

    The answers are given in turn, the last one for ever."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.certificate, certificate.key)
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = newest
        context.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_server(("0.0.0.0", 0)) as listening:
        record = Recording(listening.getsockname()[1])

        def serve() -> None:
            with contextlib.suppress(OSError):  # closed: the test is over
                while True:
                    raw = listening.accept()[0]
                    answer = answers[min(record.connections, len(answers) - 1)] if answers else b""
                    _serve_one(raw, context, answer, record)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield record
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(SECONDS)


def _serve_one(
    raw: socket.socket, context: ssl.SSLContext | None, answer: bytes, record: Recording
) -> None:
    raw.settimeout(SECONDS)
    with raw, contextlib.suppress(OSError):  # whoever trusts us not hangs up in the handshake
        connection = raw
        if context is not None:
            connection = context.wrap_socket(raw, server_side=True)
            record.handshakes += 1
        with connection:
            heard = b""
            while b"\r\n\r\n" not in heard and (more := connection.recv(65536)):
                heard += more
                record.told += more
            connection.sendall(answer)
    with record.changed:
        record.connections += 1
        record.changed.notify_all()
