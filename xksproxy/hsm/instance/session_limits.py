"""Warnings about tokens that report fewer sessions than are wanted."""

from xksproxy.hsm.pkcs11.connection import SessionLimits


def session_warnings(limits: SessionLimits, *, sessions: int, workers: int, read_write: bool) -> list[str]:
    """Return the warnings. Each worker wants ``sessions`` sessions, and one for the log-in.

    By PKCS#11, the limits are for one process. Many tokens count the sessions of all processes together, so the limits
    are compared with that number too.
    """
    named = [("ulMaxSessionCount", limits.maximum)]
    if read_write:
        named.append(("ulMaxRwSessionCount", limits.maximum_read_write))
    return [
        text
        for name, maximum in named
        if maximum is not None and (text := _warning(name, maximum, sessions=sessions, workers=workers))
    ]


def _warning(name: str, maximum: int, *, sessions: int, workers: int) -> str:
    each = sessions + 1
    said = f"the token has at most {maximum} sessions ({name})"
    wanted = f"{workers} workers want {workers * each}: each {sessions} and one to log in"
    if maximum < each:
        return (
            f"{said}, and each worker wants {each}: {sessions} and one to log in; it serves with those that there are"
        )
    if maximum < workers:
        return f"{said}, and {wanted}; if it counts those of all processes, some workers leave requests to others"
    if maximum < workers * each:
        return f"{said}, and {wanted}; if it counts those of all processes, lower sessions or server.workers"
    return ""
