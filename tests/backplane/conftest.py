"""Servers that a broker joins, and who is in their topics."""

from contextlib import ExitStack

import pytest

from support.nodes import Audience, Node


@pytest.fixture
def nodes():
    """nodes(2, url, {"threads": 2}): so many running servers, which end with the test."""
    with ExitStack() as running:
        yield lambda count, url, settings=None: [running.enter_context(Node(url, settings=settings)) for _ in range(count)]


@pytest.fixture
def audience():
    with Audience() as audience:
        yield audience
