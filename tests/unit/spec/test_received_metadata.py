"""What the log tells of ``requestMetadata``: what the API names, and the rest within bounds (R-LOG-1, R-REQ-7)."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from xksproxy.spec.messages import ReceivedMetadata, received_metadata

KNOWN = (
    "awsPrincipalArn",
    "kmsKeyArn",
    "kmsOperation",
    "kmsRequestId",
    "kmsViaService",
    "awsSourceVpc",
    "awsSourceVpce",
)
LENGTHS = st.sampled_from([0, 1, 63, 64, 65, 2047, 2048, 2049, 5000])
TEXTS = st.builds(lambda character, length: character * length, st.sampled_from("a\u20ac\U0001f600"), LENGTHS)
NAMES = st.builds(lambda text, number: f"{number}{text}"[:80], TEXTS, st.integers(0, 99))
VALUES: st.SearchStrategy[Any] = TEXTS | st.text(max_size=20) | st.sampled_from([None, True, 1, [1, "a"], {"b": None}])


def received(metadata: dict[str, Any]) -> ReceivedMetadata:
    body = {"requestMetadata": metadata, "plaintext": "QUJD"}
    return received_metadata(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))


@given(st.dictionaries(NAMES | st.sampled_from(KNOWN), VALUES, max_size=45))
@example({f"x{number}": "x" for number in range(33)})
@example({f"x{number}": "x" for number in range(26)} | dict.fromkeys(KNOWN, "known"))
@example({"n" * 64 + "a": "1", "n" * 64 + "b": "2"})
@example({"kmsOperation": "Encrypt", "long": "\u20ac" * 2049, "\u20ac" * 65: "v", "number": 1, "last": "v" * 2048})
def test_at_most_32_members_are_kept_with_bounded_names_and_values(
    metadata: dict[str, Any],
) -> None:
    metadata = json.loads(json.dumps(metadata, ensure_ascii=False).encode("utf-8", "replace"))
    texts = {
        name: (value if isinstance(value, str) else json.dumps(value, separators=(",", ":")))[:2048]
        for name, value in metadata.items()
    }
    expected: dict[str, str] = {name: texts.pop(name) for name in KNOWN if name in texts}
    for name, value in texts.items():
        if len(expected) < 32:
            expected.setdefault(name[:64], value)

    found = received(metadata)

    assert found.members == expected
    assert found.left_out == len(metadata) - len(expected)
