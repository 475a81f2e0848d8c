"""Authorities and servers' certificates for 127.0.0.1, good and odd ones, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_AUTHORITY = ("basicConstraints=critical,CA:TRUE",)
_KEY_USAGE = "keyUsage=critical,keyCertSign,cRLSign"
_NO_KEY_IDENTIFIERS = ("subjectKeyIdentifier=none", "authorityKeyIdentifier=none")
_SERVER = ("basicConstraints=CA:FALSE", "extendedKeyUsage=serverAuth")


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: what a client trusts, and what a server shows, with its key."""

    authority: Path
    server: Path


def made(folder: Path, kind: str) -> Certificates:
    """Make those of one of ``KINDS``."""
    return KINDS[kind](folder)


def _proper(folder: Path) -> Certificates:
    _issue(folder, "ca", (*_AUTHORITY, _KEY_USAGE, "subjectKeyIdentifier=hash"))
    return _served(folder, "ca", "authorityKeyIdentifier=keyid")


def _without_key_usage(folder: Path) -> Certificates:
    """As `openssl req -x509` makes an authority."""
    _issue(folder, "ca", (*_AUTHORITY, "subjectKeyIdentifier=hash"))
    return _served(folder, "ca", "authorityKeyIdentifier=keyid")


def _without_authority_key_identifier(folder: Path) -> Certificates:
    _issue(folder, "ca", (*_AUTHORITY, _KEY_USAGE, "subjectKeyIdentifier=hash"))
    return _served(folder, "ca", *_NO_KEY_IDENTIFIERS)


def _without_either(folder: Path) -> Certificates:
    """As EKS has them."""
    _issue(folder, "ca", (*_AUTHORITY, *_NO_KEY_IDENTIFIERS))
    return _served(folder, "ca", *_NO_KEY_IDENTIFIERS)


def _intermediate(folder: Path) -> Certificates:
    """The client has been given the issuing authority, and not the one above it."""
    _issue(folder, "root", (*_AUTHORITY, _KEY_USAGE, "subjectKeyIdentifier=hash"))
    identifiers = ("subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid")
    _issue(folder, "ca", (*_AUTHORITY, _KEY_USAGE, *identifiers), "root")
    return _served(folder, "ca", "authorityKeyIdentifier=keyid")


def _of_another_host(folder: Path) -> Certificates:
    _issue(folder, "ca", (*_AUTHORITY, _KEY_USAGE, "subjectKeyIdentifier=hash"))
    return _served(folder, "ca", "authorityKeyIdentifier=keyid", address="127.0.0.2")


def _of_another_authority(folder: Path) -> Certificates:
    """The same name, another key: without key identifiers only the signature tells them apart."""
    _issue(folder, "ca", (*_AUTHORITY, *_NO_KEY_IDENTIFIERS))
    server = _served(folder, "ca", *_NO_KEY_IDENTIFIERS).server
    _issue(folder, "ca", (*_AUTHORITY, *_NO_KEY_IDENTIFIERS))
    return Certificates(folder / "ca.crt", server)


def _of_no_authority(folder: Path) -> Certificates:
    """The issuer's own certificate says that it is none."""
    _issue(folder, "ca", ("basicConstraints=critical,CA:FALSE", *_NO_KEY_IDENTIFIERS))
    return _served(folder, "ca", *_NO_KEY_IDENTIFIERS)


def _expired(folder: Path) -> Certificates:
    _issue(folder, "ca", (*_AUTHORITY, *_NO_KEY_IDENTIFIERS))
    return _served(folder, "ca", *_NO_KEY_IDENTIFIERS, until="20200102000000Z")


KINDS = {
    "proper": _proper,
    "authority without key usage": _without_key_usage,
    "server without authority key identifier": _without_authority_key_identifier,
    "neither": _without_either,
    "intermediate authority": _intermediate,
    "another host": _of_another_host,
    "another authority": _of_another_authority,
    "no authority": _of_no_authority,
    "expired": _expired,
}
GOOD = ("proper", "intermediate authority")
ODD = ("authority without key usage", "server without authority key identifier", "neither")
WRONG = ("another host", "another authority", "no authority", "expired")


def _served(
    folder: Path, issuer: str, *extensions: str, address: str = "127.0.0.1", until: str = ""
) -> Certificates:
    extensions = (*_SERVER, f"subjectAltName=IP:{address}", *extensions)
    _issue(folder, "server", extensions, issuer, until)
    both = folder / "server.pem"
    both.write_bytes((folder / "server.key").read_bytes() + (folder / "server.crt").read_bytes())
    return Certificates(folder / f"{issuer}.crt", both)


def _issue(
    folder: Path, name: str, extensions: tuple[str, ...], issuer: str = "", until: str = ""
) -> None:
    """A key and a certificate with exactly these extensions, signed by itself or ``issuer``."""
    config = folder / f"{name}.cnf"
    dates = f"default_startdate = 20200101000000Z\ndefault_enddate = {until}" if until else ""
    config.write_text(
        f"""
[req]
distinguished_name = dn
prompt = no
[dn]
CN = minerwatch test {name}
[own]
{chr(10).join(extensions)}
[ca]
default_ca = here
[here]
database = {folder}/index.txt
rand_serial = yes
new_certs_dir = {folder}
default_md = sha256
default_days = 2
unique_subject = no
policy = any
x509_extensions = own
{dates}
[any]
commonName = supplied
"""
    )
    (folder / "index.txt").write_text("")
    key, request, certificate = (folder / f"{name}.{end}" for end in ("key", "csr", "crt"))
    _openssl(
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-config",
        config,
        "-keyout",
        key,
        "-out",
        request,
    )
    signer = (
        ("-cert", folder / f"{issuer}.crt", "-keyfile", folder / f"{issuer}.key")
        if issuer
        else ("-selfsign", "-keyfile", key)
    )
    _openssl(
        "ca", "-batch", "-notext", "-config", config, "-in", request, "-out", certificate, *signer
    )


def _openssl(*options: str | Path) -> None:
    done = subprocess.run(["openssl", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
