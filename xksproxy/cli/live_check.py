"""The checks of ``xksproxy check-config --live``: each HSM, and every key version on it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from xksproxy.cli.key_versions import VersionRow, version_rows
from xksproxy.config.model import Config, Hsm, KeyStore
from xksproxy.config.token_names import TokenName
from xksproxy.hsm.errors import HsmError
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.instance.live_check import LiveCheck, check_each
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.instance.witness_records import read_records
from xksproxy.hsm.keys import KeyDescription
from xksproxy.hsm.pkcs11.cryptoki import CryptokiError
from xksproxy.hsm.pkcs11.presets import quirks_of
from xksproxy.keystore.key_map import ExternalKey, KeyMap
from xksproxy.state.usage import UsageBook
from xksproxy.state.versions import version_table

_DECRYPTING_ROLES = ("primary", "decrypts", "prepared")


@dataclass(frozen=True, slots=True)
class KeyResult:
    """One version of an external key on one HSM. ``problems`` fail requests; ``warnings`` do not."""

    keystore: str
    id: str
    version: int
    role: str
    label: str
    spec: str
    usages: tuple[str, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HsmResult:
    """One HSM. If ``failure`` is not empty, its keys were not checked."""

    id: str
    token: str
    device: str
    failure: str
    keys: tuple[KeyResult, ...]
    warnings: tuple[str, ...] = ()
    """What may go wrong with the HSM itself."""

    @property
    def ok(self) -> bool:
        """Whether the HSM and all its keys can serve."""
        return not self.failure and not any(key.problems for key in self.keys)


def check_live(config: Config, tell: Callable[[str], None] = lambda _: None) -> list[HsmResult]:
    """Log in to each HSM once, run its self-test, and check every version of every key that KMS may use.

    The check reads the attributes of the keys. A key is used only if its fingerprint is recorded and the token reports
    no check value: then the token decrypts the recorded canary. ``tell`` is called with what is waited for.

    Raises:
        StateUnusable: the record of key versions cannot be read.
    """
    state = Path(config.state.directory)
    first_seen: dict[tuple[str, str], tuple[str, bytes]] = {}
    checks = check_each(config.hsm, state, config.server.workers, tell)
    return [_result(config, live, state, first_seen) for live in checks]


def _result(
    config: Config, live: LiveCheck, state: Path, first_seen: dict[tuple[str, str], tuple[str, bytes]]
) -> HsmResult:
    info, hsm = live.info, live.hsm
    token = str(TokenName.of_settings(hsm))
    device = f"{info.manufacturer} {info.model}, firmware {info.firmware}, serial {info.serial}" if info else ""
    session = live.session
    if session is None:
        return HsmResult(hsm.id, token, device, live.failure, ())

    def results() -> list[KeyResult]:
        on_token = session.list_keys()
        return [
            result
            for store in config.keystore
            if hsm.id in store.hsms
            for result in _StoreOnHsm(config, store, session, on_token, state, hsm.id, first_seen).results()
        ]

    try:
        keys = live.do(results)
        witness_warnings = live.do(partial(_witness_warnings, config, hsm, session))
    except HsmError as error:
        return HsmResult(hsm.id, token, device, f"its keys cannot be listed: {error}", ())
    return HsmResult(hsm.id, token, device, "", tuple(keys), (*live.session_warnings, *witness_warnings))


def _witness_warnings(config: Config, hsm: Hsm, session: HsmSession) -> tuple[str, ...]:
    """Why the token can be no witness of the state directory, as far as that is seen without writing to it."""
    if config.state.witness != "token":
        return ()
    try:
        read_records(session)
        reason = "" if quirks_of(hsm).read_write_sessions else "its sessions are read-only"
    except (HsmError, CryptokiError) as error:
        reason = str(error)
    return (f"the token is no witness of the state directory: {reason}",) if reason else ()


@dataclass(frozen=True, slots=True)
class _StoreOnHsm:
    """The keys of one key store on one HSM."""

    config: Config
    store: KeyStore
    session: HsmSession
    on_token: Sequence[KeyDescription]
    state: Path
    hsm_id: str
    first_seen: dict[tuple[str, str], tuple[str, bytes]]

    def results(self) -> Iterator[KeyResult]:
        versions, usage = version_table(self.state, self.store.name), UsageBook(self.state)
        records = FingerprintRecords(self.state, self.store.name)
        records.refresh()
        for key in self._keys().values():
            for row in version_rows(key, self.on_token, versions, usage):
                yield self._check(key, row, records)

    def _keys(self) -> Mapping[str, ExternalKey]:
        """The keys with an exact id, and the keys on the token that a pattern exposes."""
        key_map = KeyMap(self.store.keys, self.config.server.fleet_size)
        keys = {key.id: key for key in key_map.named_keys()}
        for description in self.on_token:
            for name in description.names:
                key = key_map.key_of_label(name)
                if key is not None:
                    keys.setdefault(key.id, key)
        return keys

    def _check(self, key: ExternalKey, row: VersionRow, records: FingerprintRecords) -> KeyResult:
        descriptions = [description for description in self.on_token if row.label in description.names]
        first = descriptions[0] if descriptions else None
        problems: list[str] = []
        if len(descriptions) > 1:
            keys = "; ".join(sorted(description.distinction for description in descriptions))
            problems.append(f"{len(descriptions)} keys fit this name, so none is used: {keys}")
        elif first is None and row.role in _DECRYPTING_ROLES:
            problems.append("missing on the token")
        elif first is not None and row.role != "disabled":
            problems += _attribute_problems(first, row.role, disabled=key.disabled)
            problems += self._identity_problems(row.label, first, records)
        return KeyResult(
            self.store.name,
            key.id,
            row.version,
            row.role,
            row.label,
            first.spec if first else "",
            first.usages if first else (),
            tuple(problems),
            tuple(_warnings(descriptions)),
        )

    def _identity_problems(self, name: str, description: KeyDescription, records: FingerprintRecords) -> Iterator[str]:
        """Compare the key with its recorded fingerprint and with the key of this name on the other HSMs."""
        fingerprint = records.get(name)
        if fingerprint is not None:
            try:
                self.session.verify_key(name, fingerprint)
            except HsmError as error:
                yield f"does not match the recorded fingerprint: {error}"
        if description.check_value is None:
            return
        first = (self.hsm_id, description.check_value)
        other, check_value = self.first_seen.setdefault((self.store.name, name), first)
        if check_value != description.check_value:
            yield f"not the same key as on {other}: their check values differ"


def _attribute_problems(description: KeyDescription, role: str, *, disabled: bool) -> Iterator[str]:
    if not description.is_aes_256:
        yield f"{description.spec}; expected AES_256"
    elif disabled or role not in _DECRYPTING_ROLES:
        return
    else:
        if role != "decrypts" and not description.can_encrypt:
            yield "CKA_ENCRYPT is false; KMS needs it"
        if not description.can_decrypt:
            yield "CKA_DECRYPT is false; KMS needs it"


def _warnings(descriptions: Iterable[KeyDescription]) -> Iterator[str]:
    for description in descriptions:
        if description.extractable or not description.sensitive:
            yield "the key can leave the HSM: CKA_EXTRACTABLE is true or CKA_SENSITIVE is false"
            return
