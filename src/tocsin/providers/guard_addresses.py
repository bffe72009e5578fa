"""Which IP addresses a gateway must not be talked into reaching, and why.

The tables follow the IANA special-purpose address registries (IPv4 and IPv6, 2025). The standard
library's `is_global` is not used: its answer changed between patch releases of the Python
versions we support (CVE-2024-4032).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address

UNSPECIFIED = "unspecified"
LOOPBACK = "loopback"
PRIVATE = "private"
SHARED = "shared (CGNAT)"
LINK_LOCAL = "link-local"
METADATA = "cloud metadata"
MULTICAST = "multicast"
RESERVED = "reserved"

# A name in `outbound.allow` opens the private ranges; these stay shut unless the address itself
# is listed, so that a rebound name can never reach a credential service.
ONLY_BY_ADDRESS = frozenset({LINK_LOCAL, METADATA, MULTICAST, UNSPECIFIED})

# Before the ranges: several of these sit inside a range with a milder name, one is public.
_METADATA = frozenset(
    {
        IPv4Address("169.254.169.254"),
        IPv4Address("169.254.170.2"),  # ECS task credentials
        IPv4Address("169.254.170.23"),  # EKS pod identity
        IPv4Address("169.254.0.23"),  # Tencent
        IPv4Address("100.100.100.200"),  # Alibaba
        IPv4Address("168.63.129.16"),  # Azure wire server
        IPv4Address("192.0.0.192"),  # Oracle
        IPv6Address("fd00:ec2::254"),
        IPv6Address("fd00:ec2::23"),
        IPv6Address("fd20:ce::254"),  # Google
        IPv6Address("fd00:42::42"),  # Scaleway
    }
)

_V4: tuple[tuple[IPv4Network, str], ...] = tuple(
    (IPv4Network(network), reason)
    for network, reason in (
        ("0.0.0.0/32", UNSPECIFIED),
        ("0.0.0.0/8", RESERVED),
        ("10.0.0.0/8", PRIVATE),
        ("100.64.0.0/10", SHARED),
        ("127.0.0.0/8", LOOPBACK),
        ("169.254.0.0/16", LINK_LOCAL),
        ("172.16.0.0/12", PRIVATE),
        ("192.0.0.0/24", RESERVED),
        ("192.0.2.0/24", RESERVED),
        ("192.88.99.0/24", RESERVED),
        ("192.168.0.0/16", PRIVATE),
        ("198.18.0.0/15", RESERVED),
        ("198.51.100.0/24", RESERVED),
        ("203.0.113.0/24", RESERVED),
        ("224.0.0.0/4", MULTICAST),
        ("240.0.0.0/4", RESERVED),
    )
)

_V6: tuple[tuple[IPv6Network, str], ...] = tuple(
    (IPv6Network(network), reason)
    for network, reason in (
        ("::/128", UNSPECIFIED),
        ("::1/128", LOOPBACK),
        ("fc00::/7", PRIVATE),
        ("fe80::/10", LINK_LOCAL),
        ("fec0::/10", PRIVATE),
        ("ff00::/8", MULTICAST),
        ("64:ff9b:1::/48", PRIVATE),
        ("2001:db8::/32", RESERVED),
        ("3fff::/20", RESERVED),
    )
)

_GLOBAL_V6 = IPv6Network("2000::/3")
_IETF_V6 = IPv6Network("2001::/23")
_TEREDO = IPv6Network("2001::/32")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_NAT64 = IPv6Network("64:ff9b::/96")
_MAPPED = IPv6Network("::ffff:0:0/96")
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


def refusal(address: Address) -> str | None:
    """Why `address` must not be reached, or None when it is an ordinary public address.

    An IPv6 form that carries IPv4 addresses (mapped, NAT64, 6to4, Teredo, ISATAP) is refused for
    the reason of the first refused address inside it.
    """
    if address in _METADATA:
        return METADATA
    if isinstance(address, IPv4Address):
        return _listed_v4(address)
    return _refusal_v6(address)


def _listed_v4(address: IPv4Address) -> str | None:
    for network, reason in _V4:
        if address in network:
            return reason
    return None


def _refusal_v6(address: IPv6Address) -> str | None:
    if address.scope_id is not None:
        return LINK_LOCAL
    for network, reason in _V6:
        if address in network:
            return reason
    for inner in embedded(address):
        reason_inside = refusal(inner)
        if reason_inside is not None:
            return reason_inside
    if address in _MAPPED or address in _NAT64 or address in _TEREDO:
        return None
    if address not in _GLOBAL_V6 or address in _IETF_V6:
        return RESERVED
    return None


def embedded(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that `address` would make some router or tunnel speak to."""
    bits = int(address)
    low = IPv4Address(bits & 0xFFFFFFFF)
    if address in _MAPPED or address in _NAT64:
        return (low,)
    if address in _TEREDO:
        return (IPv4Address((bits >> 64) & 0xFFFFFFFF), IPv4Address(int(low) ^ 0xFFFFFFFF))
    inner: tuple[IPv4Address, ...] = ()
    if address in _SIX_TO_FOUR:
        inner = (IPv4Address((bits >> 80) & 0xFFFFFFFF),)
    if (bits >> 32) & 0xFFFFFFFF in _ISATAP:
        inner = (*inner, low)
    return inner
