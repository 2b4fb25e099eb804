"""Rules for the keys of a key store."""

from collections.abc import Iterator
from typing import Final

from xksproxy.aead.metadata import is_proxy_metadata
from xksproxy.config.key_names import compile_pattern, is_pattern, split_version_label
from xksproxy.config.model import Key, KeyStore
from xksproxy.spec.limits import MAXIMUM_URI_CHARACTERS
from xksproxy.spec.uri import Operation, compose_path, is_key_id

_SCHEME_AND_HOST: Final = len("https://x")


def key_problems(at: str, store: KeyStore) -> Iterator[str]:
    """What is wrong with the keys of a key store; each line starts with the key's path, ``at`` being the list's."""
    for index, key in enumerate(store.keys):
        yield from _id_problems(f"{at}[{index}]", key, store.uri_path_prefix)
        yield from _label_problems(f"{at}[{index}]", key)
        for place, metadata in enumerate(key.legacy_metadata):
            if is_proxy_metadata(metadata):
                yield (
                    f"{at}[{index}].legacy_metadata[{place}]: starts with a byte from F8 to FF, by which the proxy"
                    " knows its own metadata"
                )
    yield from _version_problems(at, store)


def _id_problems(at: str, key: Key, prefix: str) -> Iterator[str]:
    literal = key.id.replace("*", "x").replace("?", "x")
    if not is_key_id(literal):
        yield f"{at}.id: expected 1 to 128 characters of A-Z a-z 0-9 - . _ (and not . or ..), got {key.id}"
    elif _SCHEME_AND_HOST + len(compose_path(prefix, Operation.GET_KEY_METADATA, key.id)) > MAXIMUM_URI_CHARACTERS:
        yield f"{at}.id: with the prefix, its URI has more than {MAXIMUM_URI_CHARACTERS} characters"


def _label_problems(at: str, key: Key) -> Iterator[str]:
    if is_pattern(key.id) and key.label is not None:
        yield f"{at}.label: a pattern exposes keys under their own labels"
    if is_pattern(key.id) and key.versions:
        yield f"{at}.versions: the keys of a pattern have versions by the naming rule, LABEL.v2 and so on"
    if key.versions and key.label is not None:
        yield f"{at}.label: versions list the labels already; leave one of the two out"
    labels = list(key.versions.values())
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        yield f"{at}.versions: {label} is the label of two versions"


def _version_problems(at: str, store: KeyStore) -> Iterator[str]:
    """A label that stands in the configuration and would be a later version of another key by its name.

    Which of the two it is must not change with the order in which keys are added.
    """
    by_rule = {key.label or key.id: key.id for key in store.keys if not is_pattern(key.id) and not key.versions}
    patterns = [(compile_pattern(key.id), key.id) for key in store.keys if is_pattern(key.id)]
    taken = {label for key in store.keys for label in _labels(key)} | {key.id for key in store.keys}

    def owner(label: str) -> str | None:
        """The id under which the key is exposed of which a label is a later version."""
        split = split_version_label(label)
        if split is None:
            return None
        stem = split[0]
        if stem in by_rule:
            return by_rule[stem]
        # A pattern exposes legal ids alone, and no later versions.
        if stem in taken or not is_key_id(stem) or owner(stem) is not None:
            return None
        return next((key_id for expression, key_id in patterns if expression.fullmatch(stem)), None)

    for index, key in enumerate(store.keys):
        for label in _labels(key):
            split, exposed_as = split_version_label(label), owner(label)
            if split is not None and exposed_as is not None:
                stem, number = split
                yield (
                    f"{at}[{index}]: the label {label} is by its name version {number} of {stem}, which {exposed_as}"
                    f' exposes; if it is not, give that key its versions outright, as in versions = {{ 1 = "{stem}" }}'
                )


def _labels(key: Key) -> tuple[str, ...]:
    """The labels that a configured key claims outright."""
    if is_pattern(key.id):
        return ()
    return tuple(key.versions.values()) or (key.label or key.id,)
