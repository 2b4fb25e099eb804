"""Import of ``[[keystore]]``: names, credentials and keys."""

import hashlib
import re
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Final

from xksproxy.config.key_names import split_version_label
from xksproxy.config.model import Key, KeyStore
from xksproxy.importing.findings import Finding, different, to_do
from xksproxy.importing.quoting import quote
from xksproxy.importing.settings import ExternalKeyStoreSettings, Settings
from xksproxy.printable import printable
from xksproxy.sigv4.keyring import Credential
from xksproxy.spec.uri import is_key_id

CREDENTIALS_DIRECTORY: Final = "credentials"
KEY_PLACEHOLDER: Final = "SET-AN-EXTERNAL-KEY-ID"

_MAXIMUM_NAME_CHARACTERS: Final = 64
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9_-]+")
_PUBLISHED_SECRETS: Final = frozenset({"1446c69d231bb8bfd2a72443c9a31334d11916df4fd03eaacc33185e21eb0f4b"})
"""SHA-256 of secret access keys that the sample's public files suggest."""


@dataclass(frozen=True, slots=True)
class KeyStoreCredential:
    """The directory of a key store's credentials, relative to the configuration, and its credential or None."""

    directory: str
    credential: Credential | None


def map_keystores(
    settings: Settings, hsm_id: str
) -> tuple[tuple[KeyStore, ...], tuple[KeyStoreCredential, ...], list[Finding]]:
    """Each ``[[keystore]]``, its credential, and findings."""
    stores: list[KeyStore] = []
    credentials: list[KeyStoreCredential] = []
    findings: list[Finding] = []
    every_id = frozenset(key_id for store in settings.external_key_stores for key_id in store.xks_key_id_set)
    metadata = settings.server.ciphertext_metadata_b64
    for index, store in enumerate(settings.external_key_stores):
        name = _name(store.uri_path_prefix, {other.name for other in stores})
        directory = f"{CREDENTIALS_DIRECTORY}/{name}"
        credential, credential_findings = _map_credential(index, name, store)
        ids, key_findings = _usable_ids(index, name, store.xks_key_id_set)
        stores.append(
            KeyStore(
                name=name,
                uri_path_prefix=store.uri_path_prefix,
                hsms=(hsm_id,),
                credentials=directory,
                keys=tuple(_key(key_id, every_id, metadata) for key_id in ids),
            )
        )
        credentials.append(KeyStoreCredential(directory, credential))
        findings += [*credential_findings, *key_findings]
    return tuple(stores), tuple(credentials), [*findings, *_ciphertext_findings(metadata)]


def _name(prefix: str, taken: Container[str]) -> str:
    """A legal name from a path prefix, with a number if the name is taken."""
    stem = _NOT_IN_A_NAME.sub("-", prefix).strip("-")[:_MAXIMUM_NAME_CHARACTERS] or "default"
    name, number = stem, 1
    while name in taken:
        number += 1
        ending = f"-{number}"
        name = stem[: _MAXIMUM_NAME_CHARACTERS - len(ending)] + ending
    return name


def _map_credential(index: int, name: str, store: ExternalKeyStoreSettings) -> tuple[Credential | None, list[Finding]]:
    """The credential, unless KMS would refuse it or its secret is public."""
    credential = Credential(store.sigv4_access_key_id.reveal(), store.sigv4_secret_access_key.reveal())
    if not credential.access_key_id or not credential.secret_access_key:
        problem: str | None = "access key id or secret is empty"
    elif hashlib.sha256(credential.secret_access_key.encode()).hexdigest() in _PUBLISHED_SECRETS:
        problem = "it is the placeholder of the sample's files, which is public"
    else:
        problem = credential.problem()
    if problem is None:
        return credential, []
    text = (
        f"the credential of the key store {name} was not imported: {problem}. Make one with"
        f" `xksproxy credentials create --keystore {name}`, and configure it in KMS."
    )
    return None, [to_do(f"external_key_stores[{index}]", text, f"keystore[{index}].credentials")]


def _usable_ids(index: int, name: str, ids: Iterable[str]) -> tuple[list[str], list[Finding]]:
    """The legal ids, sorted. Other ids are not imported: as patterns they could expose more keys than before."""
    setting, place = f"external_key_stores[{index}].xks_key_id_set", f"keystore[{index}].keys"
    usable = sorted(key_id for key_id in ids if is_key_id(key_id))
    findings = [
        different(setting, f"{printable(quote(key_id))} is not a legal external key id; not imported.", place)
        for key_id in sorted(ids)
        if not is_key_id(key_id)
    ]
    if usable:
        return usable, findings
    text = f"the key store {name} exposes no key; replace the placeholder by the id of the first key."
    return [KEY_PLACEHOLDER], [*findings, to_do(setting, text, place)]


def _key(key_id: str, every_id: Iterable[str], metadata: bytes | None) -> Key:
    """A key with the AAD layout of the sample, whose label is its id.

    If another key has the name of a later version of this key, this key lists its versions.
    """
    version_names = (split for other in every_id if (split := split_version_label(other)) is not None)
    has_namesake = any(stem == key_id for stem, _ in version_names)
    return Key(
        id=key_id,
        aad_encoding="sha256",
        legacy_aad_encoding="sha256",
        legacy_metadata=(metadata,) if metadata else (),
        versions={1: key_id} if has_namesake else {},
    )


def _ciphertext_findings(metadata: bytes | None) -> list[Finding]:
    text = (
        "keys keep the AAD layout of the sample (aad_encoding = sha256), so that its ciphertexts can be decrypted. Of"
        " several keys with one label, the sample used the first; this proxy refuses them: see `xksproxy keys list`."
    )
    findings = [different("external_key_stores", text, "keystore[0].keys")]
    if metadata:
        text = (
            "ciphertexts with this metadata are decrypted (legacy_metadata); new ones have the metadata of this proxy."
            " If the setting had other values before, add each of them to legacy_metadata."
        )
        findings.append(different("server.ciphertext_metadata_b64", text, "keystore[0].keys"))
    return findings
