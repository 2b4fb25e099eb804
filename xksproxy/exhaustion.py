"""Failures because this machine gives no more memory or threads: no defect, so that nobody needs a traceback."""


def exhaustion(error: BaseException) -> str | None:
    """What ran out, and what to do about it; None if the error has another cause."""
    if isinstance(error, MemoryError) or "malloc failure" in str(error):  # OpenSSL has no exception for that
        return "not enough memory: raise the limit, such as ulimit -v or MemoryMax= in the systemd unit"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "no more threads: raise the limit, such as ulimit -u or TasksMax= in the systemd unit, or ulimit -v"
    return None
