"""Where a judge's server is, and whether answers that are sent there leave the user's network."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from steersweep.core.errors import InputError

# This machine, and networks that are not routed outside.
_INSIDE = tuple(
    map(
        ipaddress.ip_network,
        ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7",
         "fe80::/10"),
    )
)  # fmt: skip
_VERSION = re.compile(r"/v\d+$")


@dataclass(frozen=True)
class Address:
    """An address of a server.

    Attributes:
        host: name or IP address.
        port: of the server.
        is_https: whether the connection is encrypted.
        path: before `/chat/completions`, without a slash at its end.
        url: all of it, as it was read.
    """

    host: str
    port: int
    is_https: bool
    path: str
    url: str


def parse_address(text: str, judge: str) -> Address:
    """The address in `http://127.0.0.1:8000` or `http://127.0.0.1:8000/v1`.

    Args:
        text: as the user wrote it; `/v1` is added where it names no path.
        judge: what messages call the judge.

    Raises:
        InputError: no address of a server, or one that holds more than that, such as a password;
            what it holds is not repeated.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{judge}: no address of a server; write {_EXAMPLE}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"{judge}: no address of a server; write {_EXAMPLE}")
    if parts.username is not None or parts.password is not None or parts.query:
        raise InputError(
            f"{judge}: the address must hold no name, password or parameters, which would be "
            f"written to files; give a key in the environment variable {KEY_VARIABLE}"
        )
    if re.search(r"[\s\x00-\x1f\x7f]", text):
        raise InputError(f"{judge}: the address holds a space or control character")
    is_https = parts.scheme == "https"
    path = parts.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/completions")
    path = path if _VERSION.search(path) else f"{path}/v1"
    port = port or (443 if is_https else 80)
    shown = f"[{host}]" if ":" in host else host
    return Address(host, port, is_https, path, f"{parts.scheme}://{shown}:{port}{path}")


def is_inside(ip: str) -> bool:
    """Whether an IP address is this machine's or its private network's."""
    found = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found.version == network.version and found in network for network in _INSIDE)


KEY_VARIABLE = "STEERSWEEP_JUDGE_API_KEY"
_EXAMPLE = "server:http://127.0.0.1:8000#MODEL"
