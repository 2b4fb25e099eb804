"""The secrets of a configuration, read once, so that no thread that serves opens their files."""

from msgspec.structs import replace

from xksproxy.config.model import Config
from xksproxy.config.secret import (
    MAXIMUM_PIN_BYTES,
    HeldSecret,
    SecretReference,
    hold_secret,
    read_source,
    source_file,
)


def hold_secrets(config: Config) -> Config:
    """The configuration with its PINs and its audit key read.

    Raises:
        SecretError: a secret cannot be read.
    """
    hsms = tuple(
        replace(hsm, pin=hold_secret(hsm.pin, MAXIMUM_PIN_BYTES)) if isinstance(hsm.pin, SecretReference) else hsm
        for hsm in config.hsm
    )
    audit = config.audit
    if audit.chain and audit.key is not None:
        audit = replace(audit, key=hold_secret(audit.key))
    return replace(config, hsm=hsms, audit=audit)


def pin_files(config: Config) -> tuple[str, ...]:
    """The files from which the PINs are read."""
    sources = (source_file(hsm.pin) for hsm in config.hsm if isinstance(hsm.pin, SecretReference))
    return tuple(str(source) for source in sources if source is not None)


def refresh_pins(config: Config) -> None:
    """Read the PINs again, for everybody who holds this configuration.

    Raises:
        SecretError: one cannot be read. Then all stay as they are.
    """
    held = [hsm.pin for hsm in config.hsm if isinstance(hsm.pin, HeldSecret)]
    fresh = [read_source(pin, MAXIMUM_PIN_BYTES) for pin in held]
    for pin, secret in zip(held, fresh, strict=True):
        pin.holder.current = secret


def copy_pins(source: Config, target: Config) -> None:
    """Give the PINs of a newly loaded configuration to everybody who holds another with the same HSMs."""
    fresh = {hsm.id: hsm.pin.holder.current for hsm in source.hsm if isinstance(hsm.pin, HeldSecret)}
    for hsm in target.hsm:
        if isinstance(hsm.pin, HeldSecret) and hsm.id in fresh:
            hsm.pin.holder.current = fresh[hsm.id]
