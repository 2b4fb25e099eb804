"""The certificates of the stub and of its clients."""

from dataclasses import dataclass
from pathlib import Path

from xksproxy_tools.development.certificates import certificate_pem, create_authority, issue, write_private

from stub_proxy.api import CLIENT_NAME


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files; a client's holds its private key too."""

    directory: Path

    @property
    def authority(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def client_authority(self) -> Path:
        return self.directory / "client-ca.pem"

    def of(self, name: str) -> Path:
        return self.directory / f"{name}.pem"


def make_certificates(directory: Path) -> Certificates:
    """A server's, one for another name, one that has expired; a client's, and one with another name."""
    authority, clients = create_authority("stub CA"), create_authority("stub client CA")
    made = Certificates(directory)
    made.authority.write_bytes(certificate_pem(authority.certificate))
    made.client_authority.write_bytes(certificate_pem(clients.certificate))
    hosts = ("localhost", "127.0.0.1")
    leaves = {
        "server": issue(authority, "localhost", hosts=hosts),
        "elsewhere": issue(authority, "elsewhere.example", hosts=("elsewhere.example",)),
        "expired": issue(authority, "localhost", hosts=hosts, days=0),
        "client": issue(clients, CLIENT_NAME, client=True),
        "wrong-client": issue(clients, "cks.kms.us-east-1.example", client=True),
    }
    for name, (certificate, key) in leaves.items():
        write_private(made.of(name), certificate + key)
    return made
