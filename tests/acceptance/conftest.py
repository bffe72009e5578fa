"""What the tests of pages share: a browser, a tab in it that complains aloud, axe-core."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext

from dashboard_site import Site
from dashboard_tab import Tab, axe_source, launched


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, from npm."""
    return axe_source(tmp_path_factory.mktemp("axe"))


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport={"width": 1440, "height": 900})
    yield made
    made.close()


@pytest.fixture
def tab(context: BrowserContext, site: Site) -> Iterator[Tab]:
    made = Tab(context, site)
    yield made
    assert made.complaints == []
