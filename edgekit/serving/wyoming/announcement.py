"""Announcement: by multicast DNS, where Home Assistant looks for what speaks Wyoming (its type is ``SERVICE``)."""

import logging
import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING
from uuid import uuid4

from edgekit.errors import MissingPackageError

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

SERVICE = "_wyoming._tcp.local."
_LONGEST = 63  # bytes of a label of DNS (RFC 1035, 2.3.4)
_log = logging.getLogger(__name__)


class Announcement:
    """One service, announced between ``start`` and ``stop``.

    name: Home Assistant knows a service by it, so it must be the same after each start; two machines with the same one
    are told apart by ``allow_name_change`` of zeroconf. addresses: of this machine, none of them loopback; empty: every
    one that it has.
    """

    def __init__(self, name: str, port: int, addresses: Sequence[str] = (), interfaces: Sequence[str] = ()) -> None:
        self._name, self._port, self._addresses = label(name), port, list(addresses)
        self._interfaces = list(interfaces)
        self._zeroconf: AsyncZeroconf | None = None
        self._service: AsyncServiceInfo | None = None

    @property
    def name(self) -> str:
        """What it is called there, once it is announced."""
        return self._service.name if self._service else ""

    async def start(self) -> None:
        """Announce it. Raises OSError where there is no network to do so, MissingPackageError."""
        try:
            from zeroconf import InterfaceChoice
            from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf
        except ImportError as error:
            raise MissingPackageError(
                f"zeroconf: {error}, announcing needs it; `pip install 'edgekit-audio[serve]'` or turn it off"
            ) from error
        addresses = self._addresses or _own_addresses()
        self._zeroconf = AsyncZeroconf(interfaces=self._interfaces or InterfaceChoice.Default)
        host = f"edgekit-{uuid4().hex[:12]}.local."  # no other's: services that share a host share its addresses
        service = AsyncServiceInfo(
            SERVICE, f"{self._name}.{SERVICE}", port=self._port, parsed_addresses=addresses, server=host
        )
        done = await self._zeroconf.async_register_service(service, allow_name_change=True)
        self._service = service
        await done
        _log.info("wyoming: announced as %s at %s", service.name, ", ".join(addresses))

    async def stop(self) -> None:
        """Take it back, if it was announced."""
        if self._zeroconf is not None:
            if self._service is not None:
                await (await self._zeroconf.async_unregister_service(self._service))
            await self._zeroconf.async_close()
            self._zeroconf = self._service = None


def label(text: str) -> str:
    """Return a text as one label of a name of DNS: no dots, no hidden characters, at most 63 bytes."""
    text = re.sub(r"[.\s\x00-\x1f\x7f]+", "-", text).strip("-") or "edgekit"
    return text.encode()[:_LONGEST].decode(errors="ignore")


def _own_addresses() -> list[str]:
    """Return the addresses by which others reach this machine."""
    import ifaddr  # of zeroconf

    texts = [
        str(one.ip if one.is_IPv4 else one.ip[0]).partition("%")[0]
        for adapter in ifaddr.get_adapters()
        for one in adapter.ips
    ]
    return [one for one in texts if not (ip_address(one).is_loopback or ip_address(one).is_link_local)]
