"""Checks of the keys of a key store."""

from collections.abc import Iterator
from typing import Final

from xksproxy.aead.metadata import is_proxy_metadata
from xksproxy.config.key_names import compile_pattern, configured_name, is_pattern, split_version_label
from xksproxy.config.model import Key, KeyStore
from xksproxy.config.object_names import ObjectName
from xksproxy.spec.limits import MAXIMUM_URI_CHARACTERS
from xksproxy.spec.pasted import pasted_problem
from xksproxy.spec.uri import Operation, compose_path, is_key_id

_MINIMUM_SCHEME_AND_HOST: Final = len("https://x")


def key_problems(at: str, store: KeyStore) -> Iterator[str]:
    """The problems of the keys of a key store. ``at`` is the path of the list, with which each problem starts."""
    for index, key in enumerate(store.keys):
        yield from _id_problems(f"{at}[{index}]", key, store.uri_path_prefix)
        yield from _label_problems(f"{at}[{index}]", key)
        for position, metadata in enumerate(key.legacy_metadata):
            if is_proxy_metadata(metadata):
                yield (
                    f"{at}[{index}].legacy_metadata[{position}]: starts with a byte from F8 to FF; these bytes mark"
                    " metadata of this proxy"
                )
    yield from _version_problems(at, store)


def _id_problems(at: str, key: Key, prefix: str) -> Iterator[str]:
    literal = key.id.replace("*", "x").replace("?", "x")
    if not is_key_id(literal):
        pasted = pasted_problem(key.id)
        hint = f"; {pasted}" if pasted else ""
        yield f"{at}.id: expected 1 to 128 characters of A-Z a-z 0-9 - . _ (and not . or ..), got {key.id}{hint}"
    elif (
        _MINIMUM_SCHEME_AND_HOST + len(compose_path(prefix, Operation.GET_KEY_METADATA, key.id))
        > MAXIMUM_URI_CHARACTERS
    ):
        yield f"{at}.id: the URI with prefix and id has more than {MAXIMUM_URI_CHARACTERS} characters"


def _label_problems(at: str, key: Key) -> Iterator[str]:
    for name in ("label", "object_id", "uri"):
        if is_pattern(key.id) and getattr(key, name) is not None:
            yield f"{at}.{name}: not allowed with a pattern, which exposes each key under its own label"
        if key.versions and getattr(key, name) is not None:
            yield f"{at}.{name}: not allowed with versions, which list the keys; remove one of the two"
    if is_pattern(key.id) and key.versions:
        yield f"{at}.versions: not allowed with a pattern; its keys have the versions LABEL.v2, LABEL.v3 and so on"
    try:
        configured_name(key)
    except ValueError as error:
        yield f"{at}: {error}"
    labels: list[str] = []
    for number, version in key.versions.items():
        try:
            labels.append(str(ObjectName.parse(version)))
        except ValueError as error:
            yield f"{at}.versions.{number}: {error}"
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        yield f"{at}.versions: {label} is the name of two versions"


def _version_problems(at: str, store: KeyStore) -> Iterator[str]:
    """Labels in the configuration that the naming rule makes a later version of another key.

    Such a label is refused, because its meaning would depend on the order in which keys are added.
    """
    ids_by_label = {_stem(key): key.id for key in store.keys if not is_pattern(key.id) and not key.versions}
    patterns = [(compile_pattern(key.id), key.id) for key in store.keys if is_pattern(key.id)]
    configured = {label for key in store.keys for label in _labels(key)} | {key.id for key in store.keys}

    def owner(label: str) -> str | None:
        """The id of the key whose later version has this label, or None."""
        split = split_version_label(label)
        if split is None:
            return None
        stem = split[0]
        if stem in ids_by_label:
            return ids_by_label[stem]
        # A pattern exposes only legal ids, and no later versions.
        if stem in configured or not is_key_id(stem) or owner(stem) is not None:
            return None
        return next((key_id for expression, key_id in patterns if expression.fullmatch(stem)), None)

    for index, key in enumerate(store.keys):
        for label in _labels(key):
            split, exposed_as = split_version_label(label), owner(label)
            if split is not None and exposed_as is not None:
                stem, number = split
                yield (
                    f"{at}[{index}]: the label {label} is version {number} of {stem} by the naming rule, and"
                    f" {exposed_as} exposes {stem}; if it is another key, list the versions:"
                    f' versions = {{ 1 = "{stem}" }}'
                )


def _labels(key: Key) -> tuple[str, ...]:
    """The labels that the configuration names for a key."""
    if is_pattern(key.id):
        return ()
    try:
        names = [ObjectName.parse(version) for version in key.versions.values()]
    except ValueError:  # a problem of its own
        return ()
    return tuple(name.label for name in names if name.label is not None) if key.versions else (_stem(key),)


def _stem(key: Key) -> str:
    """The label of version 1, from which those of later versions are made."""
    try:
        return ObjectName.parse(configured_name(key) or key.id).label or key.id
    except ValueError:  # a problem of its own
        return key.id
