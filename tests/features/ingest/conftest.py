"""The tests' pseudonym key, for module fixtures too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.data.programme import KEY
from tests.data.source_rows import VARIABLE


@pytest.fixture(scope="session", autouse=True)
def key() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, KEY)
        yield
