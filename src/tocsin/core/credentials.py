"""Which credentials are ours. Pure, so that whoever forwards headers can ask as well."""

PREFIX = b"tk-"
"""Every key that Tocsin issues begins so; what begins so is never forwarded, known or not."""

CREDENTIAL_HEADERS = frozenset({b"authorization", b"x-api-key", b"tocsin-key"})
"""Headers (lower case) in which a key of ours is looked for."""


def token_in(name: bytes, value: bytes) -> bytes:
    """The bare token of a credential header: without ``Bearer`` where that stands before it."""
    value = value.strip()
    if name == b"authorization" and value[:6].lower() == b"bearer":
        return value[6:].strip()
    return value


def is_ours(name: bytes, value: bytes) -> bool:
    """Whether a credential header holds a key of ours, or one that was meant to be."""
    return token_in(name, value).startswith(PREFIX)
