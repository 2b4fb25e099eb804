"""Whether a token says that it has fewer sessions than are wanted."""

from xksproxy.hsm.pkcs11.connection import SessionLimits


def session_warnings(limits: SessionLimits, *, sessions: int, workers: int, read_write: bool) -> list[str]:
    """What is wrong, in words. Each worker wants ``sessions`` and one to log in.

    PKCS#11 counts the sessions of one process. Many tokens count those of all processes together, so that is compared
    too.
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
