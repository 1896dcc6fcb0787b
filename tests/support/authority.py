"""A certificate authority of the tests' own, and TLS contexts that trust it and nothing else."""

import base64
import hashlib
import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key

RSA, ECDSA = trustme.KeyType.RSA, trustme.KeyType.ECDSA

# Names for the one address of all tests; the certificate of most servers is for them.
HERE = "localhost", "127.0.0.1"


class Authority:
    """`file` is its certificate. Everything that it issues is written beside it."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.root = trustme.CA()
        self.file = folder / "authority.pem"
        self.root.cert_pem.write_to_path(self.file)

    def issue(self, *names, issuer=None, **fields):
        """A certificate for these names; `fields` are what trustme takes: key_type, common_name, not_after …"""
        issued = (issuer or self.root).issue_cert(*names, **fields)
        number = len(list(self.folder.glob("*.cert")))
        pair = Pair(self.folder / f"{number}.cert", self.folder / f"{number}.key")
        # The chain: with an authority between this one and the certificate, both are in the file.
        pair.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(pair.key)
        return pair

    def issue_expired(self, *names):
        now = datetime.now(timezone.utc)
        return self.issue(*names, not_before=now - timedelta(days=30), not_after=now - timedelta(days=1))

    def issue_by_intermediate(self, *names):
        return self.issue(*names, issuer=self.root.create_child_ca())

    def client(self, certificate=None, versions=(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3), protocols=(), files=()):
        """What a client needs: it trusts this authority (and the `files`), and shows `certificate` if there is one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.file)
        for file in files:
            context.load_verify_locations(file)
        context.minimum_version, context.maximum_version = versions
        if certificate:
            context.load_cert_chain(certificate.cert, certificate.key)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    def client_of_threads(self):
        """For a client that reads in one thread and writes in another, as websockets' synchronous one.

        Python's TLS sockets can't bear that before 3.13: when a ticket of TLS 1.3 comes at the wrong moment, what is written
        is never sent. TLS 1.2 has its tickets in the handshake.
        """
        return self.client(versions=(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2))


@dataclass(frozen=True)
class Pair:
    """Two PEM files: a certificate with its chain, and its key."""

    cert: Path
    key: Path

    @property
    def settings(self):
        return settings(self)

    @property
    def certificate(self):
        return x509.load_pem_x509_certificate(self.cert.read_bytes())

    @property
    def der(self):
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def subject(self):
        return self.certificate.subject.rfc4514_string()

    @property
    def fingerprint(self):
        """Of the public key, as Chromium's command line wants it."""
        key = self.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(hashlib.sha256(key).digest()).decode()

    def with_key_as(self, form):
        """The same with the key in another form of PEM."""
        key = load_pem_private_key(self.key.read_bytes(), None)
        other = self.key.with_suffix(".other-key")
        other.write_bytes(key.private_bytes(Encoding.PEM, form, NoEncryption()))
        return Pair(self.cert, other)


def settings(*pairs):
    """The options of a server with these certificates; the first is the default one."""
    return {"tls.cert": ",".join(str(pair.cert) for pair in pairs), "tls.key": ",".join(str(pair.key) for pair in pairs)}


PKCS8, TRADITIONAL = PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL
