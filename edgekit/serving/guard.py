"""Guard: what may be bound, and who may speak to a server over HTTP, by the head of a request. Pure functions.

Any page in any browser can reach loopback: it can send a form or open a websocket to it, and with a name of its own
that it lets point to 127.0.0.1 (DNS rebinding) it could read the answers too. So every request says by its Host that it
means this server, and one of a browser by its Origin that the page is this server's own. Sources: RFC 6454 (Origin),
RFC 9110 7.2 (Host), W3C Fetch Metadata Request Headers (Sec-Fetch-Site).
"""

import base64
import binascii
import hmac
import ipaddress
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekit.errors import UsageError
from edgekit.reprs import cut, quoted

SUBPROTOCOL = "edgekit"
"""What a websocket of a browser speaks; it offers a second one, ``BEARER`` and its token in base64url."""
BEARER = "edgekit.bearer."
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_DEFAULT_PORTS = {"http": 80, "https": 443}
SHORTEST_TOKEN = 16  # characters
_FOREIGN_SITES = (b"cross-site", b"same-site")
_SHOWN = 60  # characters of what a stranger sent
Headers = Iterable[tuple[bytes, bytes]]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Access:
    """Whom a server lets in. ``hosts``, ``origins``: beside its own; ``token``: asked of everybody, None: of nobody.

    ``page_token``: what the page carries, for a browser's websocket where there is no ``token``.
    """

    host: str
    port: int
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    token: str | None = None
    page_token: str = ""


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a request is not looked at: a status of HTTP, a name for programs, one line."""

    status: int
    code: str
    message: str


def new_token() -> str:
    """Return a token that nobody can guess."""
    return secrets.token_urlsafe(32)


def check_bind(host: str, token: str | None, cert: object, key: object) -> None:
    """Raise UsageError for an address of HTTP that others reach without a token and TLS, and for half of either."""
    if token is not None and (
        len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token
    ):
        raise UsageError(
            f"http.token: {len(token)} characters, {SHORTEST_TOKEN} or more are needed, ASCII without spaces; take "
            "one of `python3 -c 'import secrets; print(secrets.token_urlsafe(32))'`"
        )
    if (cert is None) != (key is None):
        raise UsageError(f"http.{'key' if key is None else 'cert'}: TLS needs a certificate and its key; give both")
    if is_loopback(host):
        return
    lacks = [name for name, value in (("a token", token), ("TLS by cert and key", cert)) if value is None]
    if lacks:
        raise UsageError(
            f"http.host: '{host}' can be reached from other machines, which needs {' and '.join(lacks)}; give "
            f"{'it' if len(lacks) == 1 else 'both'}, or bind 127.0.0.1"
        )


def check_open(host: str, addresses: Iterable[str], networks: Sequence[object]) -> None:
    """Raise UsageError for a host of Wyoming that others reach at one of its addresses, and nobody said who may."""
    if not all(map(is_loopback, addresses)) and not networks:
        raise UsageError(
            f"wyoming.host: {quoted(host)} can be reached from other machines, and Wyoming has neither passwords nor "
            "encryption: who reaches the port may use it; say who may by wyoming.networks, such as ['192.168.1.20'], "
            "or bind 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Return whether an address to bind is this machine's own alone; of names only ``localhost`` is known to be."""
    address = address_of(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def address_of(text: str) -> Address | None:
    """Return an IP address, of one of IPv4 within IPv6 the former; None for what is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def denied(
    access: Access,
    scheme: str,
    headers: Headers,
    *,
    local: str | None = None,
    socket: bool = False,
    page: bool = False,
) -> Denied | None:
    """Return why a request is denied, None if it is not.

    scheme: http or https. local: the address of this machine that was reached. socket: it is to become a websocket.
    page: it asks for a file of the page, which holds no secret where everybody needs a token.
    """
    known: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        known.setdefault(name.lower(), []).append(value)
    host = known.get(b"host", [])
    if len(host) != 1 or not host_fits(access, scheme, _text(host[0]), local):
        sent = (
            f"'{_shown(host[0])}' is none of this server" if len(host) == 1 else f"{len(host)} of them, one is needed"
        )
        return Denied(403, "host", f"Host: {sent}; use its address, or add the name to `hosts`")
    origins = known.get(b"origin", [])
    own = f"{scheme}://{_text(host[0])}".lower()
    for origin in origins:
        if _text(origin).lower() not in {own, *access.origins}:
            return Denied(403, "origin", f"Origin: '{_shown(origin)}' is another page's; add it to `origins` if it may")
    if not origins and any(value.strip().lower() in _FOREIGN_SITES for value in known.get(b"sec-fetch-site", [])):
        return Denied(403, "origin", "Sec-Fetch-Site: another page sent this; type the address into the browser")
    browser = bool(origins) or b"sec-fetch-site" in known
    return None if page else _token_denied(access, known, socket=socket, browser=browser)


def host_fits(access: Access, scheme: str, host: str, local: str | None = None) -> bool:
    """Return whether a Host names this server: its address or a name of loopback with its port, or one of ``hosts``.

    One of ``hosts`` without a port goes with any: in front of a container it is another one.
    """
    named = split_host(host)
    if named is None:
        return False
    name, port = named
    port = _DEFAULT_PORTS.get(scheme, 0) if port is None else port
    own = _LOOPBACK | {access.host.lower().strip("[]")} | ({local.lower()} if local else set())
    if name in own and port == access.port:
        return True
    configured = [split_host(one) for one in access.hosts]
    return any(one is not None and one[0] == name and one[1] in {None, port} for one in configured)


def split_host(host: str) -> tuple[str, int | None] | None:
    """Return name, in small letters, and port of a Host; None for what is none."""
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        try:
            ipaddress.IPv6Address(name)
        except ValueError:
            return None
        if not bracket:
            return None
    else:
        name, colon, port = host.partition(":")
        rest = colon + port
    if not name or not name.isascii() or not all(sign.isalnum() or sign in "-._:" for sign in name):
        return None
    if not rest:
        return name.lower(), None
    port = rest[1:]
    if rest[0] != ":" or not (port.isascii() and port.isdigit()) or not 0 < len(port) <= 5 or int(port) > 65_535:
        return None
    return name.lower(), int(port)


def same(given: str, expected: str) -> bool:
    """Return whether two secrets are the same, in a time that says nothing of where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))


def offered(token: str) -> list[str]:
    """Return the subprotocols by which a browser's websocket gives a token."""
    return [SUBPROTOCOL, BEARER + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")]


def _token_denied(access: Access, known: dict[bytes, list[bytes]], *, socket: bool, browser: bool) -> Denied | None:
    given = [value for value in map(_bearer, known.get(b"authorization", [])) if value is not None]
    if socket:
        given += [token for value in known.get(b"sec-websocket-protocol", []) for token in _tokens(_text(value))]
    if access.token is not None:
        accepted, needed = [access.token], True
    else:
        accepted, needed = [access.page_token] if access.page_token else [], socket and browser
    matches = [same(one, other) for one in given for other in accepted]  # all, whichever fits
    if not needed or any(matches):
        return None
    if given:
        return Denied(401, "invalid_api_key", "token: it is not this server's; give the one it was started with")
    step = "open the page anew" if browser and access.token is None else "send `Authorization: Bearer TOKEN`"
    return Denied(401, "invalid_api_key", f"token: none is given, this server needs one; {step}")


def _bearer(value: bytes) -> str | None:
    kind, _, token = _text(value).strip().partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _tokens(protocols: str) -> list[str]:
    """Return the tokens among the subprotocols that a websocket offers."""
    tokens = []
    for one in (one.strip() for one in protocols.split(",")):
        if one.startswith(BEARER):
            coded = one.removeprefix(BEARER)
            try:
                tokens.append(base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode())
            except (binascii.Error, ValueError):
                continue
    return tokens


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _shown(value: bytes) -> str:
    return cut(ascii(_text(value))[1:-1], _SHOWN)
