"""Traces in: who may send them, what is refused, and answers in the sender's encoding."""

import gzip
import socket
import zlib
from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from adminkit import MAX_BODY, Reply, Site, running
from tocsin.core.errors import InputError
from tocsin.gateway import otlp
from tocsin.importers.otlp_wire import decode_export

JSON = "application/json"
PROTOBUF = "application/x-protobuf"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("site")) as found:
        yield found


def send(
    site: Site, body: bytes, kind: str = JSON, *, key: str | None = None, **headers: str
) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return site.request(
        "POST", "/v1/traces", key=key, headers={"content-type": kind, **named}, body=body
    )


def test_what_is_taken_in_is_handed_on_with_who_sent_it(site: Site) -> None:
    made = site.key("caller", features=["support"])
    reply = send(site, b"{}", "application/json; charset=utf-8", key=made.secret)
    assert (reply.status, reply.body) == (200, b"{}")
    body, media, encoding, feature, principal = site.ingested[-1]
    assert (body, media, encoding, feature) == (b"{}", JSON, None, "support")
    assert principal.key_id == made.row.id


def test_a_protobuf_request_gets_a_protobuf_answer(site: Site) -> None:
    reply = send(site, b"", PROTOBUF)
    assert (reply.status, reply.body) == (200, b"")
    assert reply.header("content-type") == PROTOBUF
    refused = send(site, b"", PROTOBUF, content_encoding="br")
    assert refused.status == 415
    assert refused.header("content-type") == PROTOBUF
    assert b"content-encoding" in refused.body


def test_what_was_left_out_is_said() -> None:
    for media in (JSON, PROTOBUF):
        response = otlp._done(media, 3, "3 spans: no trace id")
        if media == JSON:
            assert response.body == (
                b'{"partialSuccess":{"rejectedSpans":"3","errorMessage":"3 spans: no trace id"}}'
            )
        else:
            said = ExportTraceServiceResponse.FromString(bytes(response.body)).partial_success
            assert (said.rejected_spans, said.error_message) == (3, "3 spans: no trace id")


def test_only_the_two_encodings_of_otlp_are_read(site: Site) -> None:
    for kind in ("text/plain", "", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert send(site, b"{}", kind).status == 415


def test_a_key_may_write_to_its_own_features_alone(site: Site) -> None:
    made = site.key("caller", features=["support", "billing"])
    assert send(site, b"{}", key=made.secret, tocsin_feature="billing").status == 200
    assert site.ingested[-1][3] == "billing"
    before = len(site.ingested)
    assert send(site, b"{}", key=made.secret, tocsin_feature="other").status == 403
    assert send(site, b"{}", key=made.secret).status == 403  # "default" is not among them
    assert send(site, b"{}", tocsin_feature="a b").status == 400
    assert send(site, b"{}", key="tk-" + "a" * 40).status == 401
    assert len(site.ingested) == before


def test_a_sender_waits_while_the_store_is_behind(site: Site) -> None:
    site.behind = True
    try:
        reply = send(site, b"{}")
    finally:
        site.behind = False
    assert reply.status == 503
    assert int(reply.header("retry-after") or 0) > 0


def test_a_body_over_the_limit_is_refused_whether_or_not_it_says_so(site: Site) -> None:
    assert send(site, b"x" * (MAX_BODY + 1)).status == 413
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as connection:
        head = f"POST /v1/traces HTTP/1.1\r\nhost: localhost\r\ncontent-type: {JSON}\r\n"
        connection.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        for _ in range(MAX_BODY // 0x10000 + 1):
            connection.sendall(piece)
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_page_of_another_site_cannot_write_traces(site: Site) -> None:
    assert send(site, b"{}", origin="https://evil.example").status == 403
    assert send(site, b"{}", sec_fetch_site="cross-site").status == 403


def test_a_decompression_bomb_stops_at_the_limit() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    assert len(bomb) < 100_000
    for body, encoding in (
        (bomb, "gzip"),
        (zlib.compress(b"\0" * 50_000_000), "deflate"),
        (gzip.compress(b"\0" * 300_000) * 2, "gzip"),
    ):
        with pytest.raises(InputError) as caught:
            decode_export(body, JSON, encoding, max_bytes=MAX_BODY)
        assert getattr(caught.value, "status", None) == 413


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"resourceSpans":' * 20_000,
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[{"key":"a","value":'
        + b'{"arrayValue":{"values":[' * 5_000,
    ],
)
def test_deep_json_is_refused_without_a_crash(body: bytes) -> None:
    with pytest.raises(InputError):
        decode_export(body, JSON, None, max_bytes=1 << 20)


def test_where_keys_are_required_traces_need_one_too(site: Site) -> None:
    site.keyring.require_key = True
    try:
        assert send(site, b"{}").status == 401
        assert send(site, b"{}", key=site.key("caller").secret).status == 200
    finally:
        site.keyring.require_key = False
