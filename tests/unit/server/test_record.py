"""The audit line of a request: every field in its place, and what is not known left out."""

import pytest

from xksproxy.request_stats import RequestStats
from xksproxy.server.record import RequestRecord
from xksproxy.spec.errors import InternalException
from xksproxy.spec.messages import ReceivedMetadata
from xksproxy.spec.uri import Operation
from xksproxy.telemetry.lines import json_line


def test_a_full_line_has_all_fields_in_their_order() -> None:
    account = RequestStats(0.0012345, 0.0045678, ["one", "two"], 3, {"decision": "allow"})
    record = RequestRecord(
        *("192.0.2.1", 0.0, "kms.example", "store", Operation.DECRYPT, "key", "ID", "eu-west-1"),
        ReceivedMetadata({"kmsOperation": "Decrypt"}, 2),
        account,
        500,
    )
    record.refuse(InternalException("a message", detail="a reason"))
    record.vpc_endpoint_id = "vpce-1"

    assert json_line(record.line(0.0123456)) == (
        '{"peer":"192.0.2.1","vpc_endpoint_id":"vpce-1","tls_client_name":"kms.example","keystore":"store","operation":"Decrypt","key_id":"key",'
        '"key_version":3,"access_key_id":"ID","region":"eu-west-1","request_metadata":{"kmsOperation":"Decrypt"},'
        '"request_metadata_left_out":2,'
        '"hsms":["one","two"],"status":500,"error":"InternalException","error_message":"a message",'
        '"reason":"a reason","authorization":{"decision":"allow"},"ms":12.35,"queue_ms":1.23,"hsm_ms":4.57}'
    )


def test_of_a_request_that_came_nowhere_only_what_is_known_is_told() -> None:
    record = RequestRecord("192.0.2.1", 0.0)

    assert json_line(record.line(0.001)) == '{"peer":"192.0.2.1","status":200,"ms":1.0}'


@pytest.mark.parametrize("length", [2048, 2049])
def test_a_key_id_is_cut_where_it_would_fill_the_log(length: int) -> None:
    record = RequestRecord("a", 0.0, key_id="k" * length)

    assert record.line(0.0)["key_id"] == "k" * 2048
