"""What people paste in the place of an id, a path or a name."""

from typing import Final

from xksproxy.spec.uri import BASE_PATH

_SCHEMES: Final = ("http://", "https://")


def pasted_problem(text: str) -> str | None:
    """What a text is, if it was hardly meant as an id or a name: a URL, an ARN, a whole path, or text with blanks."""
    if text != text.strip():
        return "it has a blank at its beginning or end; remove it"
    if text.lower().startswith(_SCHEMES):
        return "it is a URL; leave the scheme and the rest of the URL out"
    if text.lower().startswith("arn:"):
        return "it is an ARN; expected the id or name alone"
    if BASE_PATH in text:
        return f"it is a path of the API; expected the part that is meant, without {BASE_PATH}"
    return None


def pasted_prefix_problem(prefix: str) -> str | None:
    """The same for the path prefix of a key store, into which the whole XksProxyUriPath may have been pasted."""
    path = prefix.rstrip("/")
    if path.endswith(BASE_PATH):
        rest = path.removesuffix(BASE_PATH)
        return f'it ends in {BASE_PATH}, which follows the prefix of every key store; write "{rest}"'
    return pasted_problem(prefix)
