"""Threads whose work nobody waits for any more. It imports little, since each command needs it at its end."""

import threading


class AbandonableThread(threading.Thread):
    """A thread that may hang inside a module. It does not keep the process from ending."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.given_up = False
        """Whether its work was not waited for any longer."""


def is_left_inside() -> bool:
    """Whether a thread of this process was given up. Then the process must end by :func:`os._exit`.

    At an ordinary exit, the destructors of the module could wait for the thread for ever, or crash.
    """
    return any(isinstance(thread, AbandonableThread) and thread.given_up for thread in threading.enumerate())
