"""For `urllib`: no redirect is followed."""

import urllib.request
from typing import Any


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is for one address, a token or a signed message, would be carried to another one."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None
