"""Wrong paths, methods and key ids."""

from dataclasses import replace

import msgspec

from stub_proxy import api
from stub_proxy.api import Call
from stub_proxy.behaviour import Defect, operations
from stub_proxy.http import Request, Response, json_response
from stub_proxy.world import StubKey
from xksproxy.spec.errors import InvalidUriPathException
from xksproxy.spec.uri import ApiPath, Operation


def not_implemented(call: Call) -> dict[str, object]:
    raise InvalidUriPathException("not implemented")


def any_operation(target: str) -> ApiPath:
    """What follows the key id is not looked at closely."""
    if "/keys/" in target:
        prefix, _, rest = target.partition("/kms/xks/v1/keys/")
        return ApiPath(prefix, Operation.ENCRYPT, rest.partition("/")[0])
    return api.find_route(target)


def any_prefix(target: str) -> ApiPath:
    """Whatever precedes the base is taken for the key store."""
    route = api.find_route(target.replace("/invalid", ""))
    return ApiPath(route.prefix, route.operation, route.key_id)


def plain_404(request: Request, response: Response) -> Response:
    """The web framework's own answer."""
    return (
        Response(404, (("Content-Type", "text/plain"),), b"404 page not found\n")
        if response.status == 404
        else response
    )


def get_is_not_found(request: Request) -> Response | None:
    return json_response(404, {"errorName": "InvalidUriPathException"}) if request.method == "GET" else None


def unknown_is_first(call: Call) -> StubKey:
    return call.store.key(call.route.key_id) or call.store.keys[0]


def long_ids_are_refused(call: Call) -> StubKey:
    if len(call.route.key_id) > 64:
        raise InvalidUriPathException("too long")
    return api.find_key(call)


def one_key(call: Call) -> StubKey:
    """All ids lead to the same key material."""
    return replace(api.find_key(call), value=call.store.keys[0].value)


def any_case(call: Call) -> StubKey:
    lowered = msgspec.structs.replace(call.route, key_id=call.route.key_id.lower())
    return api.find_key(replace(call, route=lowered))


def illegal_ids_crash(request: Request, response: Response) -> Response:
    illegal = "~" in request.target or "a:b" in request.target
    return json_response(500, {"errorName": "InternalException"}) if illegal else response


def only_get_is_refused(request: Request) -> None:
    if request.method == "GET":
        raise api.MethodRefused


DEFECTS = (
    Defect("one-key-for-all-ids", ("uri-keys-apart",), {"find_key": one_key}),
    Defect("case-of-ids-ignored", ("uri-key-id-case",), {"find_key": any_case}),
    Defect("illegal-ids-crash", ("uri-illegal-key-id",), {"finish": illegal_ids_crash}),
    Defect("put-is-served", ("uri-other-methods",), {"check_method": only_get_is_refused}),
    Defect("no-decrypt", ("uri-all-apis",), operations(DECRYPT=not_implemented)),
    Defect("no-health", ("uri-all-apis",), operations(GET_HEALTH_STATUS=not_implemented)),
    Defect("get-is-served", ("uri-get",), {"check_method": lambda request: None}),
    Defect("get-is-not-found", ("uri-get",), {"intercept": get_is_not_found}),
    Defect("any-operation", ("uri-unknown-operation",), {"find_route": any_operation}),
    Defect("any-prefix", ("uri-unknown-prefix",), {"find_route": any_prefix}),
    Defect(
        "404-in-plain-text", ("uri-unknown-operation", "uri-unknown-prefix", "uri-unknown-key"), {"finish": plain_404}
    ),
    Defect("unknown-key-is-the-first", ("uri-unknown-key",), {"find_key": unknown_is_first}),
    Defect("long-ids-are-refused", ("uri-longest-key-id",), {"find_key": long_ids_are_refused}),
)
