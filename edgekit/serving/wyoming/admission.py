"""Admission: from where clients may come, of a protocol that has neither passwords nor encryption."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from edgekit.errors import UsageError
from edgekit.reprs import quoted

Address = IPv4Address | IPv6Address


class Admission:
    """Lets in clients of this machine and of ``networks``. Raises UsageError for what is no network."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self.networks = tuple(_network(one) for one in networks)

    def __bool__(self) -> bool:
        return bool(self.networks)

    def admits(self, client: str) -> bool:
        """Return whether a client at this address may speak."""
        address = _address(client)
        return address is not None and (address.is_loopback or any(address in one for one in self.networks))


def is_loopback(addresses: Iterable[str]) -> bool:
    """Return whether nothing but this machine reaches any of these addresses."""
    parsed = [_address(one) for one in addresses]
    return all(one is not None and one.is_loopback for one in parsed)


def check_bind(host: str, addresses: Iterable[str], admission: Admission) -> None:
    """Raise UsageError where others could connect and nobody said who may."""
    if not is_loopback(addresses) and not admission:
        raise UsageError(
            f"wyoming: host {quoted(host)} can be reached by others, and Wyoming has neither passwords nor encryption: "
            "who reaches the port may use it; say who may by `networks`, such as ['192.168.1.20'], or use 127.0.0.1"
        )


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise UsageError(
            f"networks: {quoted(text)}, {error}; give addresses or networks such as 192.168.1.0/24"
        ) from error


def _address(text: str) -> Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
