"""What the ledger asks of a store."""

from typing import Protocol


class LedgerBook(Protocol):
    """Accounts, leases and holders, in transactions that other processes see whole."""
