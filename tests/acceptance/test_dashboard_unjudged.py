"""An alarm on what could not be judged, as pages show it."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dashboard_signals import alert, fill, traffic
from dashboard_site import Site, running
from tocsin.core.domain import Alert
from tocsin.core.signals import Estimate
from tocsin.dashboard import places

NAME = "unjudged_answer_words"
WAS, NOW, MOVED = (Estimate(v, v, v, 150) for v in (0.01, 0.97, 0.96))


def unjudged() -> Alert:
    """The answer length of most calls cannot be told any more."""
    found = alert(([], []))
    assert found.change is not None
    change = msgspec.structs.replace(
        found.change, signal=NAME, before=WAS, after=NOW, difference=MOVED, slices=()
    )
    return msgspec.structs.replace(
        found, fingerprint=f"drift:{NAME}", signal=NAME, change=change, evidence=(),
        severity="warning", summary="Not judged: Answer length rose.",
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("unjudged")
    entries = list(traffic(days=2))
    with running(folder, entries) as found:
        fill(found, entries)
        found.store.raise_alerts([unjudged()])
        yield found


def test_the_list_names_the_signal_and_the_page_tells_shares(site: Site) -> None:
    assert "Not judged: Answer length" in site.get("/alerts").text
    page = site.get(f"/alerts/{places.named(f'drift:{NAME}')}").text
    assert "1 % \u2192 97 %" in page, "a share, although the signal itself counts words"
    assert 'href="/signals/support-agent/answer_words?' in page
    assert NAME not in page.replace(f"drift:{NAME}", "").replace(f"drift%3A{NAME}", "")


def test_the_page_of_the_signal_shows_it(site: Site) -> None:
    page = site.get("/signals/support-agent/answer_words")
    assert "Not judged: Answer length rose." in page.text
