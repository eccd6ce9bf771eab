"""What drf-spectacular cannot see by itself."""

from drf_spectacular.contrib.knox_auth_token import KnoxTokenScheme


class TokenScheme(KnoxTokenScheme):  # type: ignore[no-untyped-call]
    """`Authorization: Token …` in the OpenAPI schema, for our subclass of knox's class."""

    target_class = "transfers.auth.TokenAuthentication"
