"""What ``xksproxy check-config --live`` asks the HSMs, and what it makes of the answers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xksproxy.cli.key_versions import VersionRow, version_rows
from xksproxy.config.model import Config, KeyStore
from xksproxy.hsm.errors import HsmError
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.instance.live_check import LiveCheck, check_each
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.keys import KeyDescription
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
    """One HSM; where ``failure`` says something, its keys were not looked at."""

    id: str
    token: str
    device: str
    failure: str
    keys: tuple[KeyResult, ...]

    @property
    def good(self) -> bool:
        """Whether it serves, with all its keys."""
        return not self.failure and not any(key.problems for key in self.keys)


def check_live(config: Config) -> list[HsmResult]:
    """Log in to each HSM once, let it prove itself, and look at every version of every key that KMS may use.

    Keys are described, not used; but where a key's identity is on record, a token that tells no check value decrypts
    the recorded canary.

    Raises:
        StateUnusable: the record of key versions cannot be read.
    """
    state = Path(config.state.directory)
    first_seen: dict[tuple[str, str], tuple[str, bytes]] = {}
    return [_result(config, trial, state, first_seen) for trial in check_each(config.hsm, state)]


def _result(
    config: Config, trial: LiveCheck, state: Path, first_seen: dict[tuple[str, str], tuple[str, bytes]]
) -> HsmResult:
    info, hsm = trial.info, trial.hsm
    device = f"{info.manufacturer} {info.model}, firmware {info.firmware}, serial {info.serial}" if info else ""
    if trial.session is None:
        return HsmResult(hsm.id, hsm.token, device, trial.failure, ())
    try:
        on_token = trial.session.list_keys()
        keys = [
            result
            for store in config.keystore
            if hsm.id in store.hsms
            for result in _StoreOnHsm(config, store, trial.session, on_token, state, hsm.id, first_seen).results()
        ]
    except HsmError as error:
        return HsmResult(hsm.id, hsm.token, device, f"its keys cannot be listed: {error}", ())
    return HsmResult(hsm.id, hsm.token, device, "", tuple(keys))


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
        records = FingerprintRecords(self.state / f"keys-{self.store.name}.json")
        records.refresh()
        for key in self._keys().values():
            for row in version_rows(key, self.on_token, versions, usage):
                yield self._judge(key, row, records)

    def _keys(self) -> Mapping[str, ExternalKey]:
        """The keys named outright, and those of the token that a pattern exposes."""
        key_map = KeyMap(self.store.keys, self.config.server.fleet_size)
        keys = {key.id: key for key in key_map.named_keys()}
        for description in self.on_token:
            holder = key_map.key_of_label(description.label)
            if holder is not None:
                keys.setdefault(holder.id, holder)
        return keys

    def _judge(self, key: ExternalKey, row: VersionRow, records: FingerprintRecords) -> KeyResult:
        found = [description for description in self.on_token if description.label == row.label]
        problems: list[str] = []
        if len(found) > 1:
            problems.append(f"{len(found)} keys have this label, so none is used")
        elif not found and row.role in _DECRYPTING_ROLES:
            problems.append("missing on the token")
        elif found and row.role != "disabled":
            problems += [*_unfit(found[0], row.role, disabled=key.disabled), *self._unlike(found[0], records)]
        first = found[0] if found else None
        return KeyResult(
            self.store.name,
            key.id,
            row.version,
            row.role,
            row.label,
            first.spec if first else "",
            first.usages if first else (),
            tuple(problems),
            tuple(_loose(found)),
        )

    def _unlike(self, description: KeyDescription, records: FingerprintRecords) -> Iterator[str]:
        """The same label is not the same key: hold it against the record and against the HSMs before."""
        proof = records.get(description.label)
        if proof is not None:
            try:
                self.session.verify_key(description.label, proof)
            except HsmError as error:
                yield f"not the key on record: {error}"
        if description.check_value is None:
            return
        place = (self.store.name, description.label)
        other, check_value = self.first_seen.setdefault(place, (self.hsm_id, description.check_value))
        if check_value != description.check_value:
            yield f"another key than on {other}: their check values differ"


def _unfit(description: KeyDescription, role: str, *, disabled: bool) -> Iterator[str]:
    if not description.is_aes_256:
        yield f"{description.spec}; expected AES_256"
    elif disabled or role not in _DECRYPTING_ROLES:
        return
    else:
        if role != "decrypts" and not description.can_encrypt:
            yield "CKA_ENCRYPT is false; KMS needs it"
        if not description.can_decrypt:
            yield "CKA_DECRYPT is false; KMS needs it"


def _loose(found: Iterable[KeyDescription]) -> Iterator[str]:
    for description in found:
        if description.extractable or not description.sensitive:
            yield "it can leave the HSM: CKA_EXTRACTABLE is true or CKA_SENSITIVE is false"
            return
