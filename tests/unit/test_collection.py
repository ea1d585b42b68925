"""Looking for garbage in cycles seldom: meanwhile, and never more often than before."""

import gc
from collections.abc import Iterator

import pytest

from hw_targets.collection import SELDOM, seldom_collecting


@pytest.fixture(params=[(700, 10, 10), (200_000, 50, 500)])
def before(request: pytest.FixtureRequest) -> Iterator[tuple[int, int, int]]:
    own = gc.get_threshold()
    gc.set_threshold(*request.param)
    yield request.param
    gc.set_threshold(*own)


@seldom_collecting()
def rate() -> tuple[int, int, int]:
    return gc.get_threshold()


@seldom_collecting()
def fail() -> None:
    raise KeyError


def test_the_rate_comes_back(before: tuple[int, int, int]) -> None:
    assert rate() == tuple(map(max, before, SELDOM))
    assert gc.get_threshold() == before
    with pytest.raises(KeyError):
        fail()
    assert gc.get_threshold() == before
