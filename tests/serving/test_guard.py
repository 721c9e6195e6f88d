"""Who may speak to a server over HTTP: each rule of the guard, on heads of requests as they come and as made up."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgekit.errors import UsageError
from edgekit.serving.guard import (
    BEARER,
    Access,
    check_bind,
    denied,
    host_fits,
    is_loopback,
    new_token,
    offered,
    same,
    split_host,
)

PORT = 8017
LOCAL = Access("127.0.0.1", PORT, page_token="of-the-page")  # noqa: S106 - a token of these tests
TOKEN = "sixteen-letters-or-more"  # noqa: S105
OPEN = Access("192.0.2.7", PORT, token=TOKEN, page_token="of-the-page")  # noqa: S106
HOST = (b"host", b"127.0.0.1:8017")
PAGE = (b"origin", b"http://127.0.0.1:8017")
CERT = ("cert.pem", "key.pem")


def code(access: Access = LOCAL, *headers: tuple[bytes, bytes], scheme: str = "http", **options: object) -> str:
    """Return why a request is denied, empty if it is not."""
    refusal = denied(access, scheme, headers, **options)
    return refusal.code if refusal else ""


def test_a_program_on_this_machine_is_let_in():
    assert code(LOCAL, HOST) == ""


@pytest.mark.parametrize(
    "host",
    [b"127.0.0.1:8017", b"localhost:8017", b"LocalHost:8017", b"[::1]:8017"],
)
def test_every_name_of_loopback_with_the_port_is_this_server(host):
    assert code(LOCAL, (b"host", host)) == ""


@pytest.mark.parametrize(
    "host",
    [
        b"", b"evil.example", b"evil.example:8017", b"127.0.0.1", b"127.0.0.1:80", b"127.0.0.1:8017.evil.example",
        b"localhost.evil.example:8017", b"127.0.0.1:8017@evil.example", b"[::1]", b"[::1:8017", b"::1:8017",
        b"127.0.0.1:8017,evil", b"127.0.0.1 :8017", b"localhost:08017x", b"localhost:-8017", b"\xff:8017",
        b"localhost:99999", "lоcalhost:8017".encode(),  # noqa: RUF001 - a letter that looks like another
    ],
)  # fmt: skip
def test_any_other_host_is_denied(host):
    assert code(LOCAL, (b"host", host)) == "host"


@pytest.mark.parametrize("hosts", [(), (HOST, HOST), (HOST, (b"Host", b"evil.example"))])
def test_there_is_exactly_one_host(hosts):
    assert code(LOCAL, *hosts) == "host"


def test_a_name_that_points_to_loopback_is_denied_and_the_answer_says_what_to_do():
    refusal = denied(LOCAL, "http", [(b"host", b"rebound.example:8017"), (b"origin", b"http://rebound.example:8017")])
    assert (refusal.status, refusal.code) == (403, "host")
    assert refusal.message == (
        "Host: 'rebound.example:8017' is none of this server; use its address, or add the name to `hosts`"
    )


def test_what_a_stranger_sent_is_shown_in_one_short_line():
    refusal = denied(LOCAL, "http", [(b"host", b"\x1b[31m\r\n" + b"x" * 5000)])
    assert refusal.message.isprintable()
    assert len(refusal.message) < 200


@pytest.mark.parametrize(
    ("configured", "host", "fits"),
    [
        ("box.local", "box.local:8017", True), ("box.local", "BOX.local:443", True), ("box.local", "box.local", True),
        ("box.local:8080", "box.local:8080", True), ("box.local:8080", "box.local:8017", False),
        ("box.local", "other.local:8017", False), ("[fd00::1]", "[fd00::1]:9000", True),
    ],
)  # fmt: skip
def test_a_configured_host_goes_with_its_port_or_with_any(configured, host, fits):
    assert host_fits(Access("127.0.0.1", PORT, hosts=frozenset({configured})), "http", host) is fits


def test_the_default_port_of_a_scheme_needs_no_mention():
    assert host_fits(Access("127.0.0.1", 443), "https", "localhost")
    assert not host_fits(Access("127.0.0.1", 443), "http", "localhost")


def test_the_address_that_was_reached_is_this_server_where_all_are_bound():
    everywhere = Access("0.0.0.0", PORT)  # noqa: S104
    assert not host_fits(everywhere, "https", "192.0.2.9:8017")
    assert host_fits(everywhere, "https", "192.0.2.9:8017", local="192.0.2.9")
    assert host_fits(everywhere, "https", "[2001:db8::9]:8017", local="2001:db8::9")


@pytest.mark.parametrize(
    "origin",
    [
        b"null", b"", b"http://evil.example", b"http://127.0.0.1:8018", b"https://127.0.0.1:8017", b"http://127.0.0.1",
        b"http://localhost:8017", b"http://127.0.0.1:8017.evil.example", b"http://127.0.0.1:8017/",
    ],
)  # fmt: skip
def test_a_foreign_origin_is_denied(origin):
    assert code(LOCAL, HOST, (b"origin", origin)) == "origin"
    assert code(LOCAL, HOST, PAGE, (b"origin", origin)) == "origin", "one of two"


def test_the_own_page_and_a_configured_one_are_let_in():
    assert code(LOCAL, HOST, PAGE) == ""
    friends = Access("127.0.0.1", PORT, origins=frozenset({"https://notes.example"}))
    assert code(friends, HOST, (b"origin", b"https://Notes.example")) == ""


@pytest.mark.parametrize("site", [b"cross-site", b"same-site", b" Cross-Site "])
def test_another_page_that_sends_no_origin_is_known_by_where_its_browser_says_it_is_from(site):
    assert code(LOCAL, HOST, (b"sec-fetch-site", site)) == "origin"


@pytest.mark.parametrize("site", [b"none", b"same-origin"])
def test_an_address_that_was_typed_in_is_let_in(site):
    assert code(LOCAL, HOST, (b"sec-fetch-site", site)) == ""


def protocols(token: str) -> tuple[bytes, bytes]:
    return b"sec-websocket-protocol", ", ".join(offered(token)).encode()


def test_a_websocket_of_a_browser_needs_the_token_of_the_page():
    assert code(LOCAL, HOST, PAGE, socket=True) == "invalid_api_key"
    assert code(LOCAL, HOST, PAGE, protocols("of-the-page"), socket=True) == ""
    assert code(LOCAL, HOST, PAGE, protocols("of-another"), socket=True) == "invalid_api_key"
    assert code(LOCAL, HOST, (b"sec-fetch-site", b"none"), socket=True) == "invalid_api_key"


def test_a_websocket_of_a_program_on_this_machine_needs_none():
    assert code(LOCAL, HOST, socket=True) == ""


@pytest.mark.parametrize("coded", [b"", b"!", b"=", b"a", "\xff".encode("latin-1"), b"AA", b"edgekit"])
def test_a_token_that_is_badly_coded_is_none(coded):
    given = (b"sec-websocket-protocol", BEARER.encode() + coded)
    assert code(LOCAL, HOST, PAGE, given, socket=True) == "invalid_api_key"


OUTSIDE = (b"host", b"192.0.2.7:8017")


@pytest.mark.parametrize(
    "given",
    [b"Bearer " + TOKEN.encode(), b"bearer   " + TOKEN.encode(), b"BEARER " + TOKEN.encode() + b" "],
)
def test_the_token_opens(given):
    assert code(OPEN, OUTSIDE, (b"authorization", given)) == ""
    assert code(OPEN, OUTSIDE, (b"authorization", given), socket=True) == ""
    assert code(OPEN, OUTSIDE, protocols(TOKEN), socket=True) == ""


@pytest.mark.parametrize(
    "given",
    [
        b"", b"Bearer", b"Bearer ", b"Bearer x", b"Basic " + TOKEN.encode(), TOKEN.encode(),
        b"Bearer " + TOKEN[:-1].encode(), b"Bearer " + TOKEN.encode() + b"x", b"Bearer \xff", b"Bearer of-the-page",
    ],
)  # fmt: skip
def test_nothing_else_opens(given):
    refusal = denied(OPEN, "http", [OUTSIDE, (b"authorization", given)])
    assert (refusal.status, refusal.code) == (401, "invalid_api_key")
    assert TOKEN not in refusal.message


def test_the_page_token_is_none_where_everybody_needs_one():
    assert code(OPEN, OUTSIDE, protocols("of-the-page"), socket=True) == "invalid_api_key"


def test_a_token_among_the_subprotocols_is_of_websockets_alone():
    assert code(OPEN, OUTSIDE, protocols(TOKEN)) == "invalid_api_key"


def test_the_files_of_the_page_are_there_without_a_token_but_not_for_another_page():
    assert code(OPEN, OUTSIDE, page=True) == ""
    assert code(OPEN, (b"host", b"evil.example"), page=True) == "host"
    assert code(OPEN, OUTSIDE, (b"origin", b"https://evil.example"), page=True) == "origin"


NAMES = st.sampled_from([b"host", b"origin", b"authorization", b"sec-websocket-protocol", b"sec-fetch-site", b"cookie"])
VALUES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([HOST[1], PAGE[1], b"none", b"Bearer x", ", ".join(offered("x")).encode(), b"null"]),
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8), st.booleans(), st.booleans())
@example([HOST, (b"sec-websocket-protocol", BEARER.encode() + b"\x00")], True, False)
def test_no_head_opens_a_server_that_wants_a_token_without_it(headers, socket, secure):
    refusal = denied(OPEN, "https" if secure else "http", [*headers, OUTSIDE], socket=socket)
    assert refusal is not None
    assert refusal.message.isprintable()


@given(st.text(alphabet=st.characters(codec="latin-1"), max_size=40))
def test_a_host_that_fits_is_one_of_ours_by_its_letters(host):
    if host_fits(LOCAL, "http", host):
        assert (
            host.lower() in {"127.0.0.1:8017", "localhost:8017", "[::1]:8017"}
            or host.split(":")[-1].lstrip("0") == "8017"
        )
        assert split_host(host)[0] in {"127.0.0.1", "localhost", "::1"}


@given(st.text(max_size=30), st.text(max_size=30))
def test_secrets_are_the_same_if_and_only_if_they_are_equal(one, other):
    assert same(one, one)
    assert same(one, other) is (one == other)


def test_no_two_tokens_are_the_same():
    assert len({new_token() for _ in range(100)}) == 100
    assert min(len(new_token()) for _ in range(100)) >= 40


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.9", "::1", "::ffff:127.0.0.1", "localhost", "LOCALHOST"])
def test_loopback_needs_neither_token_nor_certificate(host):
    assert is_loopback(host)
    check_bind(host, None, None, None)
    check_bind(host, TOKEN, *CERT)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "fd00::1", "box.local", "localhost.example", ""])  # noqa: S104
def test_any_other_address_needs_both(host):
    check_bind(host, TOKEN, *CERT)
    for token, pair, lacks in (
        (None, (None, None), "a token and TLS by cert and key; give both"),
        (TOKEN, (None, None), "TLS by cert and key; give it"),
        (None, CERT, "a token; give it"),
    ):
        with pytest.raises(UsageError) as refused:
            check_bind(host, token, *pair)
        assert str(refused.value) == (
            f"http.host: '{host}' can be reached from other machines, which needs {lacks}, or bind 127.0.0.1"
        )


@pytest.mark.parametrize(
    "token", ["", "short", "x" * 15, "sixteen letters or more", "sixteen-lëtters-or-more", "x" * 16 + "\n"]
)
def test_a_token_that_could_be_guessed_or_not_be_sent_is_refused(token):
    with pytest.raises(UsageError, match="^http.token: "):
        check_bind("127.0.0.1", token, None, None)


@pytest.mark.parametrize(("cert", "key", "lacks"), [("c", None, "key"), (None, "k", "cert")])
def test_half_of_a_certificate_is_refused(cert, key, lacks):
    with pytest.raises(UsageError, match=f"^http.{lacks}: TLS needs a certificate and its key; give both"):
        check_bind("127.0.0.1", None, cert, key)
