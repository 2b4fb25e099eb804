"""Authorization of one request, asked for once its key is known to be exposed and before anything else is."""

from dataclasses import dataclass
from typing import Any

from xksproxy.authorization.authorizer import Authorizer, Decision
from xksproxy.authorization.request import AuthorizationRequest
from xksproxy.request_stats import current_request_stats
from xksproxy.spec.errors import AccessDeniedException


@dataclass(frozen=True, slots=True)
class AuthorizationCheck:
    """A request before the policies of its key store."""

    authorizer: Authorizer
    request: AuthorizationRequest

    def require(self) -> None:
        """Ask the policies, and leave what they say for the log line of the request.

        Raises:
            AccessDeniedException: they do not allow the request (R-AUTHZ-4), and are enforced. Which of them decided
                is for the log alone (R-AUTHZ-5).
        """
        decision = self.authorizer.decide(self.request)
        if account := current_request_stats.get():
            account.authorization = self._facts(decision)
        if not decision.allowed and self.authorizer.mode == "enforce":
            raise AccessDeniedException(
                "The proxy's policies for this key store do not allow the request; the proxy's log names the policy",
                detail=decision.reason,
            )

    def _facts(self, decision: Decision) -> dict[str, Any]:
        facts = {
            "decision": "allow" if decision.allowed else "deny",
            "mode": self.authorizer.mode,
            "policies": decision.policies,
        }
        return facts | ({"errors": decision.errors} if decision.errors else {})
