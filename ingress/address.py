"""From which address a webhook came, and whether that is one of VectorCare's (`allow_from`). Pure."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def client_address(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> Address | None:
    """The nearest hop that is not a trusted proxy; None where that can't be told.

    `forwarded` are the X-Forwarded-For header's values as they came. Anybody may write that header, so it is read from
    its right end, and only as far as trusted proxies vouch for it.
    """
    address = _parse(peer or "")
    hops = [hop.strip() for value in forwarded for hop in value.split(",")]
    while address is not None and hops and any(address in network for network in trusted):
        address = _parse(hops.pop())
    return address


def is_allowed(address: Address | None, allowed: Sequence[Network]) -> bool:
    """Whether the address may send; everybody may where no list is given."""
    return not allowed or (address is not None and any(address in network for network in allowed))


def _parse(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
