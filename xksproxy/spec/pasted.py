"""What people paste in the place of an id, a path, a host or a Region: recognised, with what to write instead."""

import re
import unicodedata
from typing import Final

from xksproxy.spec.uri import BASE_PATH, prefix_problem

_SCHEME: Final = re.compile(r"(?i)(?:https?|file)://")
_KEY_IN_PATH: Final = re.compile(r"/keys/(?P<id>[^/?#]+)")
_REGION: Final = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d+")
_QUOTES: Final = ("''", '""', "``", "\u201c\u201d", "\u2018\u2019", "\u201e\u201c", "\u00ab\u00bb")
_KMS_NAMES: Final = ("alias/", "key/")


def wrapping_problem(text: str) -> str | None:
    """Blanks, invisible characters and quotation marks around a text, without the text: it may be a secret."""
    if text != text.strip():
        return "it has a blank at its beginning or end"
    if invisible := next((character for character in text if unicodedata.category(character) == "Cf"), None):
        return f"it has the invisible character U+{ord(invisible):04X}"
    if any(text[:1] + text[-1:] == pair for pair in _QUOTES if len(text) > 1):
        return "it is in quotation marks"
    return None


def unwrapped(text: str) -> str:
    """The text without blanks, invisible characters and quotation marks around it."""
    text = "".join(character for character in text if unicodedata.category(character) != "Cf").strip()
    return unwrapped(text[1:-1]) if any(len(text) > 1 and text[0] + text[-1] == pair for pair in _QUOTES) else text


def pasted_problem(text: str) -> str | None:
    """What a text is, if it was hardly meant as an id or a name, and what to write instead if that is known."""
    inner = unwrapped(text)
    key = _KEY_IN_PATH.search(inner)
    meant = f'; write "{key["id"]}"' if key else "; expected the id or name alone"
    if _SCHEME.match(inner):
        return f"it is a URL{meant}"
    if inner.lower().startswith("arn:"):
        return "it is an ARN; expected the id or name alone"
    if BASE_PATH in inner:
        return f"it is a path of the API{meant}"
    if inner.startswith(_KMS_NAMES):
        return "it is a name of AWS KMS; expected the id or name that this proxy knows"
    problem = wrapping_problem(text)
    return None if problem is None else f'{problem}; write "{inner}"'


def pasted_prefix_problem(prefix: str) -> str | None:
    """The same for the path prefix of a key store, in place of which an endpoint or XksProxyUriPath may be pasted."""
    inner, meant = unwrapped(prefix), prefix_in(prefix)
    if meant == prefix or prefix_problem(meant):
        return pasted_problem(prefix)
    if _SCHEME.match(inner):
        reason = "it is a URL"
    elif f"/{inner}".rstrip("/").endswith(BASE_PATH):
        reason = f"it ends in {BASE_PATH}, which follows the prefix of every key store"
    elif BASE_PATH in inner:
        reason = "it is a path of the API"
    else:
        reason = wrapping_problem(prefix) or "each segment follows one /, and the prefix does not end in /"
    return f'{reason}; write "{meant}"'


def prefix_in(text: str) -> str:
    """The path prefix of a key store that is part of a text."""
    inner = unwrapped(text)
    path = re.sub(r"^[^/]+", "", _SCHEME.sub("", inner)) if _SCHEME.match(inner) else inner
    segments = f"/{path}".partition(BASE_PATH)[0].strip("/")
    return f"/{segments}" if segments else ""


def host_in(text: str) -> str:
    """The host, with its port, that is part of a text."""
    return re.split("[/?#]", _SCHEME.sub("", unwrapped(text)), maxsplit=1)[0].rpartition("@")[2]


def pasted_host_problem(host: str) -> str | None:
    """The same for ``host`` or ``host:port``, into which an endpoint may have been pasted."""
    inner, meant = unwrapped(host), host_in(host)
    if inner.lower().startswith("arn:"):
        return "it is an ARN; expected a host or host:port"
    if meant == host:
        return None
    reason = "it is a URL" if _SCHEME.match(inner) else wrapping_problem(host) or "it is more than a host"
    return f'{reason}; write "{meant}"'


def pasted_region_problem(region: str) -> str | None:
    """The same for a Region."""
    inner = unwrapped(region).lower()
    if re.fullmatch(r"arn:[^:]*:[^:]*:[^:]+:.*", inner):
        inner, reason = inner.split(":")[3], "it is an ARN"
    elif _REGION.fullmatch(inner[:-1]) and inner[-1:].isalpha():
        inner, reason = inner[:-1], "it is an Availability Zone"
    else:
        reason = wrapping_problem(region) or "it has capital letters"
    return f'{reason}; write "{inner}"' if inner != region and _REGION.fullmatch(inner) else None
