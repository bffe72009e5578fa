"""The browser that drives the dashboard in tests, and what it complains about."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from dashboard_site import Site
from dashboard_world import NOW

CHROMIUM = os.environ.get("TOCSIN_CHROMIUM") or shutil.which("chromium") or ""
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser. Skips the test, aloud, where there is none."""
    with sync_playwright() as playwright:
        path = CHROMIUM or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip(
                "NO BROWSER: the pages were NOT tested. Install chromium, or name one in "
                "TOCSIN_CHROMIUM"
            )
        made = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield made
        made.close()


class Tab:
    """A page whose every complaint (error, refused by policy, dialog) fails the test."""

    def __init__(self, context: BrowserContext, site: Site) -> None:
        self.complaints: list[str] = []
        self.site = site
        self.page: Page = context.new_page()
        self.page.clock.set_fixed_time(NOW / 1_000_000)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type == "error" else None,
        )

    def open(self, path: str) -> Page:
        self.page.goto(self.site.url + path)
        return self.page


def axe_source(folder: Path) -> str:
    """The source of axe-core, from npm, which puts it into ``folder``."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("NPM IS MISSING: the accessibility of the pages was NOT checked")
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "axe-core@4"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(
            f"NPM COULD NOT GET axe-core, accessibility was NOT checked: {done.stderr[-300:]}"
        )
    return (folder / "node_modules/axe-core/axe.min.js").read_text()


def violations(page: Page, axe: str) -> list[str]:
    page.evaluate(axe)
    found: dict[str, Any] = page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{v['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for v in found["violations"]
        for node in v["nodes"][:3]
    ]
