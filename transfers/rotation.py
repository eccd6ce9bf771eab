"""Changing a client's token over the connection that it has; nothing is lost at a crash in between.

1. An operator asks for it: `Client.rotate`.
2. The connection of the client records the digest of a new token beside the old one's, and sends it.
3. The agent keeps it, synced to its disk, and says so. From then on it is the only one.

Until the last step both tokens are let in. An agent that comes back with the old one has kept no other
(it reads its disk after a start, and waits for its writes before it connects again), so what was offered
to it on an earlier connection is replaced; one that comes back with the new one has shown by that that
it has kept it (`auth.authenticate_agents`).
"""

import logging

from .models import Client
from .tokens import digest, new_token

log = logging.getLogger(__name__)


class Rotation:
    """The tokens of one connection. All of it runs where the database may be asked, but for `confirm`."""

    def __init__(self, client: Client, epoch: int, *, renewable: bool) -> None:
        self._client = client
        self._epoch = epoch
        self._renewable = renewable
        self._shown = {client.token_sha256}
        """Of the token that the connection was made with, and of those that it brought."""
        self._offered = self._warned = False
        self._confirmed: str | None = None

    def confirm(self, token_sha256: str) -> None:
        """The agent says that it has kept the token; the next look records that."""
        self._confirmed = token_sha256

    def is_replaced(self) -> bool:
        """Whether the machine, or another one, has enrolled anew since the connection was made."""
        return self._client.token_sha256 not in self._shown

    def take(self) -> None:
        """Record what the agent has confirmed."""
        if self._confirmed is not None:
            if self._client.take_token(self._confirmed):
                log.info("Client %s has a new token", self._client)
            self._confirmed = None
            self._offered = False

    def offer(self) -> str | None:
        """The token that is to be sent now, on record; None: no rotation is wanted, or one is under way."""
        if self._client.rotate_requested_at is None or self._offered:
            return None
        if not self._renewable:
            self._warn()
            return None
        token = new_token()
        if not self._client.offer_token(self._epoch, digest(token)):
            return None
        self._shown.add(digest(token))
        return token

    def sent(self) -> None:
        """The token was sent: no other one on this connection, as the agent may have kept it."""
        self._offered = True

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "The token of client %s cannot be rotated: its agent was given one by hand, and keeps none. "
                "`manage.py add_client %s --renew` makes a code to enrol it anew.",
                self._client,
                self._client,
            )
