"""Keys, cursors and the audit log."""

from typing import Any

import msgspec

from tocsin.store.api import AuditRow, KeyRow
from tocsin.store.database import Session


def add_key(session: Session, key: KeyRow) -> None:
    """Store an issued key; its secret is nowhere."""
    session.run(
        "add_key",
        (
            key.id,
            key.name,
            key.digest,
            key.role,
            msgspec.json.encode(key.features).decode(),
            key.created_at,
            key.expires_at,
            key.revoked_at,
            key.hint,
        ),
    )


def _key(row: tuple[Any, ...]) -> KeyRow:
    return KeyRow(
        id=row[0],
        name=row[1],
        digest=bytes(row[2]),
        role=row[3],
        features=msgspec.json.decode(row[4], type=tuple[str, ...]),
        created_at=row[5],
        expires_at=row[6],
        revoked_at=row[7],
        hint=row[8],
    )


def key_by_digest(session: Session, digest: bytes) -> KeyRow | None:
    """The key whose HMAC this is, revoked or not."""
    row = session.one("key_by_digest", (digest,))
    return None if row is None else _key(row)


def keys(session: Session) -> list[KeyRow]:
    """All keys, oldest first."""
    return [_key(row) for row in session.all("keys")]


def revoke_key(session: Session, key_id: str, at: int) -> bool:
    """Whether there was such a key, not revoked yet."""
    return session.run("revoke_key", (at, key_id)) == 1


def cursor(session: Session, consumer: str) -> int:
    """How far a consumer of the outbox has come."""
    row = session.one("cursor", (consumer,))
    return 0 if row is None else int(row[0])


def set_cursor(session: Session, consumer: str, seq: int) -> None:
    """Remember how far a consumer has come."""
    session.run("set_cursor", (consumer, seq))


def record_audit(session: Session, row: AuditRow) -> None:
    """Write down who changed what."""
    session.run("add_audit", (row.at, row.actor, row.action, row.target, row.detail))


def audit(session: Session, limit: int) -> list[AuditRow]:
    """The newest audit rows, newest first."""
    return [
        AuditRow(at=r[0], actor=r[1], action=r[2], target=r[3], detail=r[4])
        for r in session.all("audit", (limit,))
    ]
