"""TLS for the metrics address; certificates are read again when their files change."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from minerwatch.config.schema import Tls
from minerwatch.errors import ListenError

_Stamps = tuple[tuple[int, int, int], ...]


class TlsEndpoint:
    """TLS with the certificates that the files of ``settings`` hold at the moment.

    While the files are broken or being replaced, the last certificate stays in use; ``failures``
    counts that.
    """

    def __init__(self, settings: Tls) -> None:
        """Raises ListenError for unusable files."""
        self.failures = 0
        self._settings = settings
        files = (settings.certificate, settings.key, settings.client_ca)
        self._files = tuple(Path(file) for file in files if file)
        try:
            self._stamps = self._file_stamps()
            self._context = self._load()
        except OSError as error:  # ssl.SSLError is one
            raise ListenError(f"tls: {self._suspect_files()}: {_reason(error)}") from error

    @property
    def asks_for_certificates(self) -> bool:
        """Return True if clients are asked for a certificate; without one they see health only."""
        return bool(self._settings.client_ca)

    def wrapped(self, client: socket.socket) -> ssl.SSLSocket:
        """Return the connection with TLS, before the handshake: nothing is sent or read yet."""
        self._refresh()
        return self._context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)

    def has_certificate(self, client: ssl.SSLSocket) -> bool:
        """Return True if the client has shown a certificate that the configured CA signed."""
        return self.asks_for_certificates and bool(client.getpeercert())

    def _refresh(self) -> None:
        try:
            stamps = self._file_stamps()
            if stamps == self._stamps:
                return
            self._stamps = stamps
            self._context = self._load()
        except OSError:
            self.failures += 1

    def _file_stamps(self) -> _Stamps:
        stats = (file.stat() for file in self._files)
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in stats)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.load_cert_chain(self._settings.certificate, self._settings.key or None)
        if self._settings.client_ca:
            context.load_verify_locations(self._settings.client_ca)
            # Not required: the kubelet's probes of health have none.
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def _suspect_files(self) -> str:
        """Return the files that the error can be about; OpenSSL does not name one."""
        missing = [str(file) for file in self._files if not file.is_file()]
        return ", ".join(missing or map(str, self._files))


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"no certificate with its key in PEM ({error.reason or 'unreadable'})"
    return error.strerror or str(error)
