"""The decision whether the policies of a key store allow a request."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, Self

from cedarpy import Decision as CedarDecision
from cedarpy import is_authorized

from xksproxy.authorization.findings import reads_request_id
from xksproxy.authorization.policies import Policies
from xksproxy.authorization.request import AuthorizationRequest, cedar_entities, cedar_request
from xksproxy.config import model

_CACHED_DECISIONS: Final = 1024
_CACHED_CHARACTERS: Final = 4096
"""The longest request that is cached. Both limits together keep the cache at some megabytes."""

_LOGGED_CHARACTERS: Final = 500
_NUMBERED: Final = re.compile(r"`policy([0-9]+)`")


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a request is allowed, and the policies that decided."""

    allowed: bool

    policies: tuple[str, ...] = ()
    """The ids of the policies that permit or forbid the request. It is empty if no policy matches."""

    errors: tuple[str, ...] = ()
    """Errors of the evaluation. With an error the request is refused, because the failed policy could be a forbid."""

    @property
    def reason(self) -> str:
        """Why a request is refused, for the log."""
        by = f"refused by policy {', '.join(self.policies)}" if self.policies else "no policy permits the request"
        return "; ".join(("the policies could not be evaluated", *self.errors) if self.errors else (by,))


class Authorizer:
    """The policies of one key store. A request that no policy permits is refused.

    A decision depends only on the request and on the policies, which do not change, so the latest decisions are cached.
    The cache key leaves out ``kmsRequestId``, unless a policy reads it.
    """

    def __init__(self, key_store: str, policies: Policies, mode: Literal["enforce", "audit"] = "enforce") -> None:
        self.mode: Final = mode
        self._key_store = key_store
        self._policies = policies
        self._reads_request_id = reads_request_id(policies)
        self._evaluate_cached = lru_cache(_CACHED_DECISIONS)(self._evaluate)

    @classmethod
    def build(cls, table: model.KeyStore, policies: Policies | None) -> Self | None:
        """Return None without policies: then every authenticated request is allowed."""
        return None if policies is None else cls(table.name, policies, table.policy_mode)

    def decide(self, request: AuthorizationRequest) -> Decision:
        """Return the decision for a request. It never raises: after an error the request is refused."""
        if not self._reads_request_id:
            request = request._replace(kms_request_id="")
        try:
            if request.characters > _CACHED_CHARACTERS:
                return self._evaluate(request)
            return self._evaluate_cached(request)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a panic in Cedar is a BaseException; it must not end the worker
            return Decision(allowed=False, errors=(f"Cedar failed: {type(error).__name__}",))

    def _evaluate(self, request: AuthorizationRequest) -> Decision:
        result = is_authorized(
            cedar_request(request),
            self._policies.policy_set,
            cedar_entities(request, self._key_store),
            self._policies.schema,
        )
        errors = tuple(self._with_policy_id(error)[:_LOGGED_CHARACTERS] for error in result.diagnostics.errors)
        numbers = sorted(int(name.removeprefix("policy")) for name in result.diagnostics.reasons)
        return Decision(
            allowed=result.decision is CedarDecision.Allow and not errors,
            policies=tuple(self._policies.policies[number].id for number in numbers),
            errors=errors,
        )

    def _with_policy_id(self, error: str) -> str:
        """An error message of Cedar, with the policy's id in place of Cedar's number."""
        policies = self._policies.policies
        return _NUMBERED.sub(lambda match: f"`{policies[int(match[1])].id}`", error, count=1)
