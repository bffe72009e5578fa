"""Packages that offer a domain with kinds of operations, as pip leaves them behind.

The real command finds one by ``PYTHONPATH``, a Tocsin in the test's own process by ``importable``.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "shop_for_tests"


def offer(folder: Path, source: str) -> Path:
    """Write a package whose module has ``DOMAIN``; again: its next version. Returns the folder."""
    about = folder / f"{NAME}-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-for-tests\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[tocsin.domains]\nshop = {NAME}:DOMAIN\n")
    (folder / f"{NAME}.py").write_text(source)
    # Bytecode is told apart by second and length of its source: this one may be alike in both.
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    return folder


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """This process has that package installed."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(NAME, None)
