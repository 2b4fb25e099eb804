"""Authorization of one request, directly after the check that the key is exposed."""

from dataclasses import dataclass
from typing import Any

from xksproxy.authorization.authorizer import Authorizer, Decision
from xksproxy.authorization.request import AuthorizationRequest
from xksproxy.request_stats import current_request_stats
from xksproxy.spec.errors import AccessDeniedException


@dataclass(frozen=True, slots=True)
class AuthorizationCheck:
    """A request, and the policies of its key store that must allow it."""

    authorizer: Authorizer
    request: AuthorizationRequest

    def require(self) -> None:
        """Evaluate the policies and record the decision for the audit line of the request.

        Raises:
            AccessDeniedException: the policies do not allow the request (R-AUTHZ-4), and are enforced. Only the log
                names the policies that decided (R-AUTHZ-5).
        """
        decision = self.authorizer.decide(self.request)
        if stats := current_request_stats.get():
            stats.authorization = self._log_fields(decision)
        if not decision.allowed and self.authorizer.mode == "enforce":
            raise AccessDeniedException(
                "The proxy's policies for this key store do not allow the request; the proxy's log names the policy",
                detail=decision.reason,
            )

    def _log_fields(self, decision: Decision) -> dict[str, Any]:
        fields = {
            "decision": "allow" if decision.allowed else "deny",
            "mode": self.authorizer.mode,
            "policies": decision.policies,
        }
        return fields | ({"errors": decision.errors} if decision.errors else {})
