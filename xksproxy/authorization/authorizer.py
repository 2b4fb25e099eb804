"""Decisions by the policies of a key store."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, Self

from cedarpy import Decision as CedarDecision
from cedarpy import is_authorized

from xksproxy.authorization.findings import reads_request_id
from xksproxy.authorization.policies import Policies, load_policies
from xksproxy.authorization.request import AuthorizationRequest, cedar_entities, cedar_request
from xksproxy.config import model

_REMEMBERED_DECISIONS: Final = 1024
_REMEMBERED_CHARACTERS: Final = 4096
"""Of one request; together they bound what is remembered to some megabytes."""

_LOGGED_CHARACTERS: Final = 500
_NUMBERED: Final = re.compile(r"`policy([0-9]+)`")


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a request is allowed, and by which policies."""

    allowed: bool

    policies: tuple[str, ...] = ()
    """The ids of those that decided: what permits, or what forbids. None of a refusal means that nothing permits."""

    errors: tuple[str, ...] = ()
    """What could not be evaluated. With an error nothing is allowed: the policy that failed may be one that forbids."""

    @property
    def reason(self) -> str:
        """Why a request is refused, for the log."""
        by = f"refused by policy {', '.join(self.policies)}" if self.policies else "no policy permits the request"
        return "; ".join(("the policies could not be evaluated", *self.errors) if self.errors else (by,))


class Authorizer:
    """The policies of one key store. A request that no policy permits is refused.

    A decision depends on nothing but the request and the policies, which never change here, so the latest are
    remembered. What is remembered leaves the id of the request out, unless a policy reads it.
    """

    def __init__(self, key_store: str, policies: Policies, mode: Literal["enforce", "audit"] = "enforce") -> None:
        self.mode: Final = mode
        self._key_store = key_store
        self._policies = policies
        self._reads_request_id = reads_request_id(policies)
        self._remembered = lru_cache(_REMEMBERED_DECISIONS)(self._evaluate)

    @classmethod
    def build(cls, table: model.KeyStore) -> Self | None:
        """Read the policies of a key store; None where it has none, and all that is authenticated is allowed.

        Raises:
            ConfigError: they cannot be used.
        """
        return None if table.policies is None else cls(table.name, load_policies(table.policies), table.policy_mode)

    def decide(self, request: AuthorizationRequest) -> Decision:
        """Never raises, and never allows by an error: what cannot be decided is refused."""
        if not self._reads_request_id:
            request = request._replace(kms_request_id="")
        try:
            if request.characters > _REMEMBERED_CHARACTERS:
                return self._evaluate(request)
            return self._remembered(request)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a panic of Cedar is no Exception, and must not end the worker
            return Decision(allowed=False, errors=(f"Cedar failed: {type(error).__name__}",))

    def _evaluate(self, request: AuthorizationRequest) -> Decision:
        result = is_authorized(
            cedar_request(request),
            self._policies.policy_set,
            cedar_entities(request, self._key_store),
            self._policies.schema,
        )
        errors = tuple(self._named(error)[:_LOGGED_CHARACTERS] for error in result.diagnostics.errors)
        numbers = sorted(int(name.removeprefix("policy")) for name in result.diagnostics.reasons)
        return Decision(
            allowed=result.decision is CedarDecision.Allow and not errors,
            policies=tuple(self._policies.policies[number].id for number in numbers),
            errors=errors,
        )

    def _named(self, error: str) -> str:
        """An error of Cedar with the policy's id in place of the number it gave it."""
        policies = self._policies.policies
        return _NUMBERED.sub(lambda found: f"`{policies[int(found[1])].id}`", error, count=1)
