"""TLS for metrics and web pages; certificates are read again when their files change."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import SubprocessError

from minerwatch.config.schema import Tls
from minerwatch.errors import ListenError
from minerwatch.node import confined
from minerwatch.node.guarded_child import output_of

_NAME = "minerwatch"
_VALID = timedelta(days=3650)
_SKEW = timedelta(days=1)
_MAX_CHILD_S = 60.0

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


def self_signed_tls() -> Tls:
    """Return settings with a new certificate, usable in this process. Raises ListenError.

    A child makes it, because importing cryptography takes 12 MiB. The private key stays in memory:
    the file that TLS reads is anonymous.
    """
    try:
        made = output_of(__name__, max_s=_MAX_CHILD_S)
    except (OSError, SubprocessError) as error:
        raise ListenError(
            f"tls: cannot make a certificate: {error}; set tls.certificate, or"
            " authorize_metrics: false"
        ) from error
    file = os.memfd_create(_NAME)
    os.write(file, made)
    return Tls(certificate=f"/proc/self/fd/{file}")


def _new_certificate() -> bytes:
    """Return a new private key and its certificate as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


if __name__ == "__main__":
    confined.follow(int(sys.argv[1]))
    confined.keep()
    sys.stdout.buffer.write(_new_certificate())
