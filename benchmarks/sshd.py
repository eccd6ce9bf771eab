"""A throw-away sshd on loopback: its own keys, port and configuration, in a folder that goes with it.

Nothing in `~/.ssh` or `/etc` is read or changed.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Self

from tests.end_to_end.harness import eventually, free_port

from .processes import cpu_seconds

HOST = "server"
PRIVILEGE_SEPARATION = Path("/run/sshd")
"""An empty folder that sshd insists on for each connection when root has started it. Where it is missing
it is made, as the system's own service does, and left: another sshd may be using it by now."""

SERVER_CONFIGURATION = """\
ListenAddress 127.0.0.1
Port {port}
HostKey "{folder}/host_key"
AuthorizedKeysFile "{folder}/identity.pub"
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitUserRC no
Subsystem sftp internal-sftp
"""

CLIENT_CONFIGURATION = """\
Host {host}
  HostName 127.0.0.1
  HostKeyAlias {host}
  Port {port}
  IdentityFile "{folder}/identity"
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile "{folder}/known_hosts"
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  BatchMode yes
"""


class Missing(Exception):
    """What is to be compared with is not to be had here; says why."""


def program(name: str) -> str:
    """Where it is installed. Raises Missing."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin")
    if found is None:
        raise Missing(f"{name} is not installed (make system-deps)")
    return found


class Sshd:
    """A running one. Raises Missing where it is not installed, or lets nobody in."""

    def __init__(self, folder: Path) -> None:
        daemon, self.ssh, keygen = program("sshd"), program("ssh"), program("ssh-keygen")
        self.port = free_port()
        self._folder = folder
        folder.mkdir(mode=0o700)
        for key in ("host_key", "identity"):
            subprocess.run(
                [keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True
            )
        self._write("known_hosts", f"{HOST} {(folder / 'host_key.pub').read_text()}")
        self._write("sshd_config", SERVER_CONFIGURATION.format(port=self.port, folder=folder))
        self.configuration = self._write(
            "ssh_config", CLIENT_CONFIGURATION.format(host=HOST, port=self.port, folder=folder)
        )
        if os.geteuid() == 0:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        log = (folder / "sshd.log").open("wb")
        self._process = subprocess.Popen(
            [daemon, "-D", "-e", "-f", str(folder / "sshd_config")], stdout=log, stderr=log
        )
        log.close()
        try:
            self.cipher = self._let_in()
        except Missing:
            self.stop()
            raise

    def _write(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def _let_in(self) -> str:
        """Wait until it does; the cipher that was negotiated. Raises Missing."""
        said = ""

        def cipher() -> str | None:
            nonlocal said
            done = subprocess.run(
                [self.ssh, "-v", "-F", self.configuration, HOST, "true"],
                check=False,
                capture_output=True,
                text=True,
                timeout=30,
            )
            said = done.stderr
            found = re.search(r"kex: client->server cipher: (\S+)", said)
            return found[1] if found and done.returncode == 0 else None

        try:
            return eventually("a way in", cipher, seconds=10)
        except AssertionError:
            log = (self._folder / "sshd.log").read_text()
            why = (log.strip() or said.strip() or "nothing").splitlines()[-1]
            raise Missing(f"sshd lets nobody in: {why}") from None

    @property
    def shell(self) -> str:
        """What rsync calls as its remote shell."""
        return shlex.join([self.ssh, "-F", str(self.configuration)])

    def cpu(self) -> float:
        """CPU seconds of all connections that have ended; waits for those that are about to."""
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        eventually("the end of all connections", lambda: not children.read_text())
        return cpu_seconds(pid, children=True)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
