"""Settings of a server whose channel layer loses every fifth message, as it may: silently."""

import itertools
import logging
from typing import Any

from channels.layers import InMemoryChannelLayer

from silentmode.settings import *  # noqa: F403

log = logging.getLogger("transfers")


class LossyLayer(InMemoryChannelLayer):
    """At most once, and less than that on purpose."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sent = itertools.count(1)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if next(self._sent) % 5:
            await super().group_send(group, message)
        else:
            log.info("a ring is lost")


CHANNEL_LAYERS = {"default": {"BACKEND": "tests.end_to_end.lossy.LossyLayer"}}
