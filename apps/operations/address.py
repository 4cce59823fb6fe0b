"""Where the house is reached: the address it listens on, and the names it answers to."""

import errno
import ipaddress
import socket
from dataclasses import dataclass

from apps.errors import NetraError


class PortTaken(NetraError):
    """Another program listens there."""

    code = "port.taken"


class BadAddress(NetraError):
    """This machine cannot listen there."""

    code = "address.unusable"


@dataclass(frozen=True, kw_only=True)
class Address:
    """A host name or IP address of this machine, and a TCP port."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """How a browser on this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  # read, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def names(self) -> tuple[str, ...]:
        """The host names to answer to besides the configured ones; Django writes IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        own = () if self.is_local else (socket.gethostname().lower(), socket.getfqdn().lower())
        return tuple(dict.fromkeys((host, *own)))


def free_address(host: str, port: int) -> Address:
    """The address, once it is shown that this process could listen there; port 0 becomes one that is free.

    Raises:
        PortTaken: another program listens there.
        BadAddress: there is no such address here, or it takes more rights than this user has.
    """
    if not 0 <= port <= 65535:
        raise BadAddress(f"{port} is no port; choose one from 1024 to 65535 with PORT=.")
    try:
        return Address(host=host, port=_bind(host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"Port {port} on {host} is taken by another program. "
                f"Choose another one: `make run PORT={_next_free(host, port)}`."
            ) from None
        raise BadAddress(
            f"Netra cannot listen on {host} port {port} ({error.strerror or error}). "
            "Choose an address of this machine with HOST= and a port from 1024 to 65535 with PORT=."
        ) from None


def _bind(host: str, port: int) -> int:
    family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(target)
        listener.listen(1)
        return int(listener.getsockname()[1])


def _next_free(host: str, port: int) -> int:
    for candidate in range(port + 1, min(port + 20, 65536)):
        try:
            return _bind(host, candidate)
        except OSError:
            continue
    return _bind(host, 0)
