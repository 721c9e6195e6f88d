"""Admission: from where clients may come, of a protocol that has neither passwords nor encryption."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

from edgekit.errors import UsageError
from edgekit.reprs import quoted
from edgekit.serving.guard import address_of


class Admission:
    """Lets in clients of this machine and of ``networks``. Raises UsageError for what is no network."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self.networks = tuple(_network(one) for one in networks)

    def admits(self, client: str) -> bool:
        """Return whether a client at this address may speak."""
        address = address_of(client)
        return address is not None and (address.is_loopback or any(address in one for one in self.networks))


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise UsageError(
            f"wyoming.networks: {quoted(text)}, {error}; give addresses or networks such as 192.168.1.0/24"
        ) from error
