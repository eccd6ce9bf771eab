"""Whatever an agent does: contained, closed with a code, and others' files land meanwhile.

`python -m tests.hostile_agent` prints the table.
"""

from collections.abc import Iterator

import pytest

from tests.hostile_agent.misbehaviour import Misbehaviour
from tests.hostile_agent.suite import Suite, every, suite

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def playing(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Suite]:
    chosen = {item.name for item in request.session.items}
    each = [one for one in every() if f"test_it_is_contained[{one.name}]" in chosen]
    with suite(tmp_path_factory.mktemp("scene"), each) as playing:
        yield playing


@pytest.mark.parametrize("each", every(), ids=lambda each: each.name)
def test_it_is_contained(playing: Suite, each: Misbehaviour) -> None:
    assert playing.verdict(each, playing.play(each)) == []
