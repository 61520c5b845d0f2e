"""A browser for the pages."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.browser import Page, browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    """One browser for all tests of a module."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, browser(Path(profile)) as page:
        yield page
