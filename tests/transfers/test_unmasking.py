"""Taking the mask off."""

from hypothesis import given
from hypothesis import strategies as st

from transfers.unmasking import Unmasker


@given(st.binary(min_size=4, max_size=4), st.lists(st.binary(max_size=50)))
def test_in_whatever_pieces_it_comes_it_is_what_the_rfc_says(
    mask: bytes, pieces: list[bytes]
) -> None:
    """RFC 6455, section 5.3: octet i is octet i of what came, XOR octet i mod 4 of the mask."""
    unmasker = Unmasker(mask)
    came = b"".join(pieces)
    got = b"".join(unmasker.process(piece) for piece in pieces)
    assert got == bytes(octet ^ mask[i % 4] for i, octet in enumerate(came))
    assert unmasker.pointer() == len(came)
