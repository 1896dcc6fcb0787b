"""The examples are the same programs in every language, so the same tests try them all."""

import pytest

from support.places import IS_SANITIZED
from support.programs import LANGUAGES, speaking


@pytest.fixture(scope="module", params=["c"] if IS_SANITIZED else LANGUAGES)
def language(request):
    """The tests of a module that uses this run in every language. A fixture of the module's that
    starts a program must ask for it, too."""
    with speaking(request.param):
        yield request.param
