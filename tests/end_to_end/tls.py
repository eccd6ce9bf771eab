"""The real server with TLS: daphne's own, and nginx in front as docs/operations.md has it."""

import os
import re
import signal
import ssl
import subprocess
from pathlib import Path

from tests.end_to_end.harness import PATIENCE, PROJECT, Server, eventually, free_port
from tests.tls import Authority, Certificate

OPERATIONS = (PROJECT / "docs/operations.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """The part of a document below this title, until the next."""
    after = text.partition(f"# {title}\n")[2]
    assert after, title
    return re.split(r"^#+ ", after, maxsplit=1, flags=re.MULTILINE)[0]


def blocks(text: str, language: str) -> list[str]:
    """What a document has between fences, of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


class TlsServer(Server):
    """`SILENTMODE_TLS=own`: daphne's `ssl:` endpoint, on `localhost`."""

    def __init__(self, directory: Path, authority: Authority, certificate: Certificate) -> None:
        super().__init__(directory, SILENTMODE_TLS="own")
        self.plain = free_port()
        self.certificate = certificate
        self.context = ssl.create_default_context(cafile=authority.file)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def listening(self) -> list[str]:
        text = section(OPERATIONS, "Without a proxy")
        [endpoint] = blocks(text, "")
        [for_monitors] = re.findall(r"`(-e tcp:8000:[^`]+)`", text)
        documented = {
            "443": str(self.port),
            "/etc/silentmode/tls/key.pem": str(self.certificate.key),
            "/etc/silentmode/tls/cert.pem": str(self.certificate.certificate),
        }
        chain = f":interface=127.0.0.1:extraCertChain={self.certificate.chain}"
        plain = filled(for_monitors, {"8000": str(self.plain)})
        return f"{filled(endpoint, documented).strip()}{chain} {plain}".split()

    def restart(self, certificate: Certificate) -> None:
        """With another certificate, on the same port."""
        assert self.program.terminate() == 0
        self.certificate = certificate
        self.start()


class NginxServer(Server):
    """`SILENTMODE_TLS=proxy`: the documented nginx in front, on `localhost`."""

    def __init__(self, directory: Path, authority: Authority, certificate: Certificate) -> None:
        super().__init__(directory, SILENTMODE_TLS="proxy")
        self.behind = self.port
        self.plain = free_port()
        self.certificate = certificate
        self.context = ssl.create_default_context(cafile=authority.file)
        self._nginx: subprocess.Popen[bytes] | None = None

    @property
    def listening(self) -> list[str]:
        return ["--port", str(self.behind)]

    @property
    def url(self) -> str:
        scheme, host = ("https", "localhost") if self._nginx else ("http", "127.0.0.1")
        return f"{scheme}://{host}:{self.port}"

    def start(self, *arguments: object) -> None:
        super().start()
        self.port = free_port()
        configuration = self.directory / "nginx.conf"
        configuration.write_text(self._configuration())
        log = self.directory / "nginx.log"
        with log.open("wb") as output:
            self._nginx = subprocess.Popen(
                ["nginx", "-p", str(self.directory), "-c", str(configuration), "-e", "stderr"],
                stdout=output,
                stderr=output,
            )

        def healthy() -> bool:
            assert self._nginx is not None
            assert self._nginx.poll() is None, log.read_text()
            try:
                return self.call("GET", "/healthz")[0] == 200
            except OSError:
                return False

        eventually("nginx in front", healthy)

    def _configuration(self) -> str:
        [documented] = blocks(section(OPERATIONS, "Behind nginx"), "nginx")
        site = filled(
            documented,
            {
                "server 127.0.0.1:8000;": f"server 127.0.0.1:{self.behind};",
                "listen 80;": f"listen 127.0.0.1:{self.plain};",
                "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
                "/etc/ssl/files.example.com.pem": str(self.certificate.certificate),
                "/etc/ssl/private/files.example.com.key": str(self.certificate.key),
                "server_name files.example.com;": "server_name localhost;",
                # As the document says of a port that is not 443.
                "proxy_set_header Host $host;": "proxy_set_header Host $host:$server_port;",
            },
        )
        temporary = " ".join(
            f"{kind}_temp_path {self.directory / kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        account = "user root;" if os.geteuid() == 0 else ""
        return (
            f"{account} daemon off; pid {self.directory / 'nginx.pid'}; worker_processes 1;\n"
            f"events {{}}\nhttp {{ access_log off; {temporary}\n{site}}}\n"
        )

    def stop(self) -> None:
        if self._nginx is not None:
            self._nginx.send_signal(signal.SIGTERM)
            self._nginx.wait(PATIENCE)


def filled(documented: str, values: dict[str, str]) -> str:
    """What the document shows, with the values of a test. Each must be there, or the test has rotted."""
    for shown, value in values.items():
        assert shown in documented, shown
        documented = documented.replace(shown, value)
    return documented
