"""The guard of outbound URLs: what it reads, what it refuses, and what it pins."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.providers.guard import OutboundGuard, Url
from tocsin.providers.guard_addresses import embedded, refusal
from tocsin.providers.http_errors import InvalidUrl, OutboundRefused, ResolveFailed

PUBLIC = "93.184.215.14"


class Names:
    """A resolver that answers from a list, one answer per question, the last one for ever."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        await asyncio.sleep(0)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


REFUSED_V4 = [
    ("0.0.0.0", "unspecified"),
    ("0.1.2.3", "reserved"),
    ("10.0.0.1", "private"),
    ("100.64.0.1", "shared"),
    ("100.127.255.255", "shared"),
    ("100.100.100.200", "cloud metadata"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("168.63.129.16", "cloud metadata"),
    ("169.254.169.254", "cloud metadata"),
    ("169.254.1.1", "link-local"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.1", "reserved"),
    ("192.0.2.1", "reserved"),
    ("192.168.1.1", "private"),
    ("198.18.0.1", "reserved"),
    ("198.51.100.1", "reserved"),
    ("203.0.113.1", "reserved"),
    ("224.0.0.1", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "reserved"),
]
REFUSED_V6 = [
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::7f00:1", "reserved"),
    ("fc00::1", "private"),
    ("fd00:ec2::254", "cloud metadata"),
    ("fe80::1", "link-local"),
    ("febf::1", "link-local"),
    ("fec0::1", "private"),
    ("ff02::1", "multicast"),
    ("64:ff9b:1::1", "private"),
    ("100::1", "reserved"),
    ("2001:10::1", "reserved"),
    ("2001::1", "unspecified"),
    ("2001:db8::1", "reserved"),
    ("3fff::1", "reserved"),
    ("5f00::1", "reserved"),
    ("4000::1", "reserved"),
]
v4 = st.integers(0, 2**32 - 1).map(IPv4Address)
refused_v4 = v4.filter(lambda address: refusal(address) is not None) | st.sampled_from(
    [IPv4Address(text) for text, _ in REFUSED_V4]
)


# Addresses


@pytest.mark.parametrize(("text", "reason"), REFUSED_V4 + REFUSED_V6)
async def test_a_special_address_is_refused_and_named(text: str, reason: str) -> None:
    url = f"http://[{text}]:8080/x" if ":" in text else f"http://{text}:8080/x"
    with pytest.raises(OutboundRefused) as caught:
        await OutboundGuard().check(url)
    message = str(caught.value)
    assert reason in message
    assert "outbound.allow" in message
    assert str(ip_address(text)) in message
    assert caught.value.host == str(ip_address(text))
    assert not caught.value.sent
    assert not caught.value.retry_safe


@pytest.mark.parametrize(
    "text",
    ["1.1.1.1", PUBLIC, "100.63.255.255", "100.128.0.1", "172.32.0.1", "2606:4700::1111"],
)
async def test_a_public_address_passes_and_is_pinned(text: str) -> None:
    url = f"https://[{text}]" if ":" in text else f"https://{text}"
    checked = await OutboundGuard().check(url)
    assert checked.addresses == (text,)


def _carriers(address: IPv4Address) -> list[IPv6Address]:
    bits = int(address)
    flipped = bits ^ 0xFFFFFFFF
    public = int(IPv4Address(PUBLIC))
    return [
        IPv6Address(0xFFFF << 32 | bits),  # mapped
        IPv6Address(0x64FF9B << 96 | bits),  # NAT64
        IPv6Address(0x2002 << 112 | bits << 80 | 1),  # 6to4
        IPv6Address(0x20010000 << 96 | bits << 64 | (public ^ 0xFFFFFFFF)),  # Teredo server
        IPv6Address(0x20010000 << 96 | public << 64 | flipped),  # Teredo client
        IPv6Address(0x2606_4700 << 96 | 0x5EFE << 32 | bits),  # ISATAP
        IPv6Address(0x2606_4700 << 96 | 0x02005EFE << 32 | bits),
    ]


@given(refused_v4)
def test_no_ipv6_form_carries_a_refused_ipv4_address_in(address: IPv4Address) -> None:
    for carrier in _carriers(address):
        assert address in embedded(carrier)
        assert refusal(carrier) is not None, carrier


@given(v4.filter(lambda address: refusal(address) is None))
def test_ipv6_forms_of_public_addresses_are_public(address: IPv4Address) -> None:
    for carrier in _carriers(address):
        assert refusal(carrier) is None, carrier


@given(v4)
def test_the_tables_never_call_public_what_the_standard_library_calls_private(
    address: IPv4Address,
) -> None:
    if refusal(address) is None:
        assert not address.is_private
        assert not address.is_multicast
        assert not address.is_reserved


@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_only_global_unicast_ipv6_passes(address: IPv6Address) -> None:
    if refusal(address) is None and not embedded(address):
        assert address.is_global


@given(v4, st.sampled_from(["decimal", "hex", "octal", "dotted hex", "dotted octal", "short"]))
def test_an_ipv4_host_has_one_spelling(address: IPv4Address, form: str) -> None:
    bits = int(address)
    octets = address.packed
    host = {
        "decimal": str(bits),
        "hex": hex(bits),
        "octal": f"0{bits:o}",
        "dotted hex": ".".join(hex(octet) for octet in octets),
        "dotted octal": ".".join(f"0{octet:o}" for octet in octets),
        "short": f"{octets[0]}.{bits & 0xFFFFFF}",
    }[form]
    with pytest.raises(InvalidUrl):
        Url.parse(f"http://{host}/")


@given(v4)
def test_mixed_case_hex_and_partial_hex_are_refused_too(address: IPv4Address) -> None:
    a, b, c, d = address.packed
    for host in (f"0X{int(address):X}", f"{a}.{b}.{c}.0x{d:x}", f"{a}.{b}.{c}.0{d:03o}"):
        with pytest.raises(InvalidUrl):
            Url.parse(f"http://{host}/")


# URLs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://api.example.com", ("https", "api.example.com", 443, "", "/")),
        ("https://api.example.com/v1", ("https", "api.example.com", 443, "/v1", "")),
        ("HTTP://API.Example.com:8080/v1/", ("http", "api.example.com", 8080, "/v1", "/")),
        ("https://h.test/hook?a=1&b=2", ("https", "h.test", 443, "/hook", "?a=1&b=2")),
        ("https://h.test?a=1", ("https", "h.test", 443, "", "/?a=1")),
        ("http://[::1]:11434/v1", ("http", "::1", 11434, "/v1", "")),
        ("http://[0:0:0:0:0:0:0:1]/", ("http", "::1", 80, "", "/")),
        ("http://my_service:1/", ("http", "my_service", 1, "", "/")),
        ("https://bücher.example/", ("https", "xn--bcher-kva.example", 443, "", "/")),
    ],
)
def test_a_url_is_read(text: str, expected: tuple[str, str, int, str, str]) -> None:
    url = Url.parse(text)
    assert (url.scheme, url.host, url.port, url.prefix, url.tail) == expected
    assert Url.parse(str(url)) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/v1",
        "//example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "http:example.com",
        "http:///x",
        "http://",
        " http://example.com/",
        "http://example.com/ ",
        "http://exa mple.com/",
        "http://example.com\t/",
        "http://example.com/\r\nx: y",
        "http://example.com/\n",
        "http://example.com/\x00",
        "http://example.com/#part",
        "http://user@example.com/",
        "http://user:pass@example.com/",
        "http://@example.com/",
        "http://example.com:@evil.test/",
        "http://example.com\\@evil.test/",
        "http://example.com\\.evil.test/",
        "http://example.com/a\\b",
        "http://example.com:",
        "http://example.com:/",
        "http://example.com:0/",
        "http://example.com:080/",
        "http://example.com:+80/",
        "http://example.com:-1/",
        "http://example.com:65536/",
        "http://example.com:999999/",
        "http://example.com:8०/",
        "http://example.com:80:80/",
        "http://example.com:http/",
        "http://%31%32%37.0.0.1/",
        "http://127%2e0.0.1/",
        "http://example.com./",
        "http://.example.com/",
        "http://a..b/",
        "http://-a.test/",
        "http://a-.test/",
        "http://127.1/",
        "http://127.0.0.01/",
        "http://256.1.1.1/",
        "http://1.2.3.4.5/",
        "http://0x7f000001/",
        "http://example.0x1/",
        "http://１２７.0.0.1/",
        "http://127。0。0。1/",
        "http://faß.example/",
        "http://a\u200db.example/",
        "http://[::1/",
        "http://::1/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[127.0.0.1]/",
        "http://[::1]x/",
        "http://[::1]:/",
        "http://example.com/ü",
        "http://" + "a" * 64 + ".test/",
        "http://" + "a." * 130 + "test/",
        "http://example.com/" + "a" * 9000,
    ],
)
def test_an_odd_url_is_refused(text: str) -> None:
    with pytest.raises(InvalidUrl) as caught:
        Url.parse(text)
    assert caught.value.reason


@given(st.text(max_size=60))
def test_reading_never_fails_in_another_way(text: str) -> None:
    for url in (text, f"http://{text}", f"http://a.test:{text}", f"https://a.test/{text}"):
        try:
            parsed = Url.parse(url)
        except InvalidUrl:
            continue
        assert Url.parse(str(parsed)) == parsed
        assert parsed.host.isascii()
        assert str(parsed).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "https://me:s3cret-pw@api.example.com/v1?key=s3cret-q",
        "https://me:s3cret/pw@api.example.com/v1",
        "https://api.example.com/s3cret-path?key=s3cret-q#s3cret",
        "https://api.example.com:s3cret/",
        "https://s3cret@/",
        "s3cret://x",
        "https://s3cret:s3cret",
    ],
)
def test_an_error_never_shows_what_could_be_a_secret(text: str) -> None:
    with pytest.raises(InvalidUrl) as caught:
        Url.parse(text)
    shown = str(caught.value)
    if "s3cret:s3cret" not in text:  # there the host itself is called so
        assert "s3cret" not in shown
    assert "\n" not in shown


def test_an_error_names_the_host_when_it_is_certain() -> None:
    with pytest.raises(InvalidUrl, match=r"api\.example\.com"):
        Url.parse("https://me:pw@api.example.com/v1")


async def test_a_refusal_shows_neither_path_nor_query() -> None:
    with pytest.raises(OutboundRefused) as caught:
        await OutboundGuard().check("http://127.0.0.1:99/s3cret?key=s3cret")
    assert "s3cret" not in str(caught.value)
    assert "127.0.0.1:99" in str(caught.value)


# The list of what is allowed


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:11434"),
        ("127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("LOCALHOST", "http://localhost:5"),
        ("localhost:80", "http://localhost"),
        ("::1", "http://[::1]:5"),
        ("[::1]", "http://[0::1]:5"),
        ("[::1]:5", "http://[::1]:5"),
        ("169.254.169.254", "http://169.254.169.254"),
    ],
)
async def test_a_listed_host_is_allowed(entry: str, url: str) -> None:
    checked = await OutboundGuard(allow=[entry], resolver=Names(["127.0.0.1"])).check(url)
    assert checked.addresses


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("127.0.0.1:11434", "http://127.0.0.1:11435"),
        ("localhost:80", "https://localhost"),
        ("127.0.0.1", "http://localhost"),
        ("127.0.0.1", "http://[::ffff:127.0.0.1]"),
        ("localhost", "http://sub.localhost"),
        ("localhost", "http://localhost.evil.test"),
    ],
)
async def test_what_is_not_exactly_listed_stays_refused(entry: str, url: str) -> None:
    with pytest.raises(OutboundRefused):
        await OutboundGuard(allow=[entry], resolver=Names(["127.0.0.1"])).check(url)


@pytest.mark.parametrize("address", ["169.254.169.254", "169.254.3.4", "224.0.0.1", "0.0.0.0"])
async def test_a_listed_name_does_not_open_metadata_or_link_local(address: str) -> None:
    guard = OutboundGuard(allow=["ollama.internal"], resolver=Names([address]))
    with pytest.raises(OutboundRefused, match=address):
        await guard.check("http://ollama.internal")


@pytest.mark.parametrize("entry", ["", "http://x", "a b", "x:0", "x/y", "u@x", "*.x", "x?y"])
def test_a_bad_entry_is_an_error_that_names_the_setting(entry: str) -> None:
    with pytest.raises(ValueError, match=r"outbound\.allow"):
        OutboundGuard(allow=[entry])


# Resolution


async def test_one_private_address_among_public_ones_refuses_all() -> None:
    guard = OutboundGuard(resolver=Names([PUBLIC, "10.0.0.1"]))
    with pytest.raises(OutboundRefused, match=r"10\.0\.0\.1"):
        await guard.check("https://mixed.test")


async def test_a_resolution_is_reused_for_its_ttl_and_no_longer() -> None:
    now = 0.0
    names = Names([PUBLIC], ["127.0.0.1"])
    guard = OutboundGuard(resolver=names, ttl=10.0, clock=lambda: now)
    url = Url.parse("https://rebind.test")
    assert await guard.resolve(url) == (PUBLIC,)
    now = 9.9
    assert await guard.resolve(url) == (PUBLIC,)
    now = 10.0
    with pytest.raises(OutboundRefused):
        await guard.resolve(url)
    assert len(names.asked) == 2


async def test_callers_share_a_question_and_one_may_leave() -> None:
    names = Names([PUBLIC])
    guard = OutboundGuard(resolver=names)
    url = Url.parse("https://shared.test")
    first, *others = [asyncio.ensure_future(guard.resolve(url)) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.gather(*others) == [(PUBLIC,)] * 4
    assert len(names.asked) == 1


@pytest.mark.parametrize("answer", [[], ["not an address"]])
async def test_an_answer_without_addresses_is_an_error(answer: list[str]) -> None:
    with pytest.raises(ResolveFailed, match=r"nowhere\.test") as caught:
        await OutboundGuard(resolver=Names(answer)).check("https://nowhere.test")
    assert caught.value.retry_safe


async def test_a_name_that_does_not_resolve_is_an_error() -> None:
    async def none(host: str, port: int) -> Sequence[str]:
        raise OSError("Name or service not known")

    with pytest.raises(ResolveFailed, match="not known"):
        await OutboundGuard(resolver=none).check("https://nowhere.test")


async def test_the_system_resolver_answers_for_localhost() -> None:
    checked = await OutboundGuard(allow=["localhost"]).check("http://localhost")
    assert set(checked.addresses) <= {"127.0.0.1", "::1"}


# Redirects

GUARD = OutboundGuard(resolver=Names([PUBLIC]))


@pytest.mark.parametrize(
    ("location", "target", "drop"),
    [
        ("/other?x=1", "https://a.test/other?x=1", False),
        ("other", "https://a.test/dir/other", False),
        ("https://a.test/x#part", "https://a.test/x", False),
        ("https://A.TEST:443/x", "https://a.test/x", False),
        ("https://b.test/x", "https://b.test/x", True),
        ("//b.test/x", "https://b.test/x", True),
        ("https://a.test:8443/x", "https://a.test:8443/x", True),
    ],
)
async def test_a_redirect_is_checked(location: str, target: str, drop: bool) -> None:
    redirect = await GUARD.check_redirect("https://a.test/dir/page", location)
    assert str(redirect.url) == target
    assert redirect.drop_credentials is drop
    assert redirect.addresses == (PUBLIC,)


async def test_a_redirect_from_http_to_https_is_another_origin() -> None:
    redirect = await GUARD.check_redirect("http://a.test/", "https://a.test/")
    assert redirect.drop_credentials


async def test_a_redirect_to_a_private_address_is_refused() -> None:
    with pytest.raises(OutboundRefused, match="cloud metadata"):
        await GUARD.check_redirect("http://a.test/", "http://169.254.169.254/latest/")


async def test_a_redirect_from_https_to_http_is_refused() -> None:
    with pytest.raises(OutboundRefused, match="leaves https"):
        await GUARD.check_redirect("https://a.test/", "http://a.test/")


@pytest.mark.parametrize(
    "location",
    ["http://a b/", "https://u:p@b.test/", "/a\r\nset-cookie: x", "\\\\b.test/", "ftp://b.test/",
     "javascript:alert(1)", "/" + "a" * 9000],
)  # fmt: skip
async def test_an_odd_location_is_refused(location: str) -> None:
    with pytest.raises(InvalidUrl):
        await GUARD.check_redirect("https://a.test/", location)
