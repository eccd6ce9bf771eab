"""What agents show who they are with: lasting tokens, and codes that are exchanged for one.

Both are random enough to be looked up by a plain SHA-256, which is all that is stored of them: 256 bits
and 125 (OWASP ASVS 5.0 asks for 112).
"""

import hashlib
import secrets

CODE_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no I, L, O or U, which are taken for 1, 0 and V when somebody reads a code out."""

CODE_GROUPS = 5
CODE_GROUP = 5

_LOOK_ALIKES = str.maketrans("ILO", "110", "- ")


def new_token() -> str:
    """A token for a client: 256 random bits."""
    return secrets.token_urlsafe(32)


def new_code() -> str:
    """An enrolment code, as `7Q2MX-0WK4D-…`: 125 random bits; it never begins like an option."""
    letters = (secrets.choice(CODE_ALPHABET) for _ in range(CODE_GROUPS * CODE_GROUP))
    code = "".join(letters)
    return "-".join(code[n : n + CODE_GROUP] for n in range(0, len(code), CODE_GROUP))


def digest(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def code_digest(code: str) -> str:
    """What is stored of a code: the same however it was typed."""
    return digest(code.upper().translate(_LOOK_ALIKES))
