"""Who this machine is, at which server, and how it knows that one: kept in the state folder."""

import argparse
import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .progress import say
from .state_folder import StateFolder, StateFolderError
from .transport import Trust, pin, pin_text
from .usage import UsageError, same_server, server_url

FILE = "credentials.json"


@dataclass(frozen=True)
class Credentials:
    """A client's id and token at one server."""

    server: str
    """`ws://…` or `wss://…`, without a path."""
    client_id: str
    token: str = field(repr=False)
    trust: Trust = field(default_factory=Trust)
    """As the enrolment was told; its CA file is an absolute path."""

    def trust_in(self, server: str) -> Trust:
        """What was said of this server; nothing that was said of one is believed of another."""
        return self.trust if same_server(server, self.server) else Trust()

    @classmethod
    def load(cls, folder: StateFolder) -> Self | None:
        """What is kept; None: this machine has not enrolled. Raises StateFolderError."""
        path = folder.path / FILE
        try:
            data = folder.read(FILE)
            return None if data is None else cls._parsed(json.loads(data))
        except OSError as error:
            raise StateFolderError(f"{path} cannot be read: {error.strerror}.") from None
        except UsageError as error:  # by hand, when the server had moved
            raise StateFolderError(f"{path}: {error}") from None
        except (ValueError, TypeError, KeyError, argparse.ArgumentTypeError):
            raise StateFolderError(
                f"{path} is damaged. Put it right, or remove it and enrol this machine anew: `manage.py "
                "add_client <its id> --renew` on the server makes a code."
            ) from None

    @classmethod
    def _parsed(cls, kept: Any) -> Self:
        """Raises UsageError, ValueError, TypeError, KeyError and ArgumentTypeError."""
        if not isinstance(kept, dict):
            raise TypeError("no JSON object")
        ca_file = kept.get("ca_file")
        trust = Trust(
            None if ca_file is None else Path(ca_file),
            tuple(pin(text) for text in kept.get("pins", ())),
            kept.get("allow_insecure", False) is True,
        )
        return cls(server_url(kept["server"]), kept["client_id"], kept["token"], trust)

    def keep(self, folder: StateFolder) -> None:
        """Synced to the disk when this returns. Raises OSError."""
        kept = {
            "server": self.server,
            "client_id": self.client_id,
            "token": self.token,
            "ca_file": self.trust.ca_file and str(self.trust.ca_file),
            "pins": [pin_text(digest) for digest in self.trust.pins],
            "allow_insecure": self.trust.allow_insecure,
        }
        folder.write_private(FILE, json.dumps(kept, indent=1).encode())


def take_token(folder: StateFolder, token: str) -> str:
    """Keep a new token; the one that is on the disk then, which is the old one if that went wrong.

    That one counts: what a restarted agent would show is what the server must know. Raises
    StateFolderError when it cannot be told which it is.
    """
    kept = Credentials.load(folder)
    if kept is None:
        raise StateFolderError(f"{folder.path / FILE} is gone.")
    try:
        dataclasses.replace(kept, token=token).keep(folder)
    except OSError as error:
        say(f"the new token could not be kept in {folder.path}: {error.strerror}")
    after = Credentials.load(folder)
    return kept.token if after is None else after.token
