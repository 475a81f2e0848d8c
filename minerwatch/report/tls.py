"""TLS for the address that metrics are served on; certificates are read again when they change."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from minerwatch.config.schema import Tls
from minerwatch.errors import ListenError

_Stamps = tuple[tuple[int, int, int], ...]


class TlsEndpoint:
    """Speaks TLS on accepted connections, as the files of ``settings`` say at that moment.

    Files that are being replaced, or are broken, leave the certificate in use that was read before;
    ``failures`` counts that.
    """

    def __init__(self, settings: Tls) -> None:
        """Raises ListenError: which file, and what is wrong with it."""
        self.failures = 0
        self._settings = settings
        files = (settings.certificate, settings.key, settings.client_ca)
        self._files = tuple(Path(file) for file in files if file)
        try:
            self._stamps = self._now()
            self._context = self._read()
        except OSError as error:  # ssl.SSLError is one
            raise ListenError(f"tls: {self._culprit()}: {_reason(error)}") from error

    @property
    def asks_for_certificates(self) -> bool:
        """Whether clients have to show a certificate to see more than the agent's health."""
        return bool(self._settings.client_ca)

    def wrapped(self, client: socket.socket) -> ssl.SSLSocket:
        """The connection, before its handshake: nothing is sent or awaited yet."""
        self._refresh()
        return self._context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)

    def has_certificate(self, client: ssl.SSLSocket) -> bool:
        """Return True if the client has shown a certificate that the configured CA signed."""
        return self.asks_for_certificates and bool(client.getpeercert())

    def _refresh(self) -> None:
        try:
            stamps = self._now()
            if stamps == self._stamps:
                return
            self._stamps = stamps
            self._context = self._read()
        except OSError:
            self.failures += 1

    def _now(self) -> _Stamps:
        stats = (file.stat() for file in self._files)
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in stats)

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.load_cert_chain(self._settings.certificate, self._settings.key or None)
        if self._settings.client_ca:
            context.load_verify_locations(self._settings.client_ca)
            # Not required: the kubelet, which asks for health, has none to show.
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def _culprit(self) -> str:
        """The files that it can be about; OpenSSL does not say which."""
        missing = [str(file) for file in self._files if not file.is_file()]
        return ", ".join(missing or map(str, self._files))


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not a certificate and its key in PEM ({error.reason or 'unreadable'})"
    return error.strerror or str(error)
