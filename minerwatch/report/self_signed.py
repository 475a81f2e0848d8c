"""A certificate of the agent's own, for TLS where none is configured.

A child process makes it, because importing cryptography takes 12 MiB. The private key stays in
memory: the file that TLS reads is anonymous.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from subprocess import SubprocessError

from minerwatch.config.schema import Tls
from minerwatch.errors import ListenError
from minerwatch.node.guarded_child import output_of

_NAME = "minerwatch"
_VALID = timedelta(days=3650)
_SKEW = timedelta(days=1)
_MAX_S = 60.0


def self_signed_tls() -> Tls:
    """Return settings with a new certificate, usable in this process. Raises ListenError."""
    try:
        made = output_of(__name__, max_s=_MAX_S)
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
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


if __name__ == "__main__":
    sys.stdout.buffer.write(_new_certificate())
