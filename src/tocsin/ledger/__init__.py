"""Reserve before dispatch, settle after: limits that hold under concurrency and crash."""

from tocsin.ledger.accounts import add, limit_named, read_accounts, reconcile
from tocsin.ledger.budget import CallBudget
from tocsin.ledger.ledger import Ledger
from tocsin.ledger.limits import limits_of
from tocsin.ledger.policy import LedgerPolicy

__all__ = [
    "CallBudget",
    "Ledger",
    "LedgerPolicy",
    "add",
    "limit_named",
    "limits_of",
    "read_accounts",
    "reconcile",
]
