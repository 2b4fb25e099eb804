"""The work of a command on one HSM: on a thread of its own, so that a call that hangs does not hold the command."""

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from xksproxy.config.model import Hsm
from xksproxy.config.secret import Secret
from xksproxy.hsm.abandonable_thread import AbandonableThread
from xksproxy.hsm.errors import TokenUnavailable
from xksproxy.hsm.pkcs11.connection import Connection
from xksproxy.hsm.pkcs11.modules import LOADING, Modules

Result = TypeVar("Result")
Tell = Callable[[str], None]
"""Called with what a command waits for."""

_POLL_SECONDS: Final = 0.1
_FIRST_TOLD_SECONDS: Final = 3.0
_TOLD_AGAIN_SECONDS: Final = 10.0


class HsmThread(AbandonableThread):
    """Does one piece of work after another, each given up when it has hung for ``connect_timeout_s``.

    Connecting may take so long altogether, later work in a single call.
    """

    def __init__(self, hsm: Hsm, modules: Modules, tell: Tell = lambda _: None) -> None:
        """Start it. ``tell`` is called after 3 s of waiting, and then every 10 s."""
        super().__init__(f"{hsm.id}-command")
        self.hsm = hsm
        self._modules = modules
        self._tell = tell
        self._queue: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._step = LOADING
        self._began = time.monotonic()
        self._connecting = False
        self.start()

    def run(self) -> None:
        """Do the work; the thread ends with the process."""
        while True:
            work, future = self._queue.get()
            self._began = time.monotonic()
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                future.set_exception(error)

    def connect(self, pin: Secret | None) -> Connection:
        """Connect the HSM; part of the work on this thread. For the errors see :meth:`Modules.connect`."""
        self._connecting = True
        return self._modules.connect(self.hsm, pin, report=self.note_step, wait=lambda: not self.given_up)

    def note_step(self, step: str) -> None:
        """Note what it does, for messages."""
        self._step = step

    def note_connected(self) -> None:
        """Note that connecting is over, and that the work that follows may take longer."""
        self._connecting = False

    def begin(self, work: Callable[[], Result]) -> "Future[Result]":
        """Let the thread do some work after all that was begun before."""
        future: Future[Result] = Future()
        self._queue.put((work, future))
        return future

    def result(self, future: "Future[Result]") -> Result:
        """Wait for a result.

        Raises:
            TokenUnavailable: it hangs; the message says where.
        """
        waits_since, told_at = time.monotonic(), time.monotonic() + _FIRST_TOLD_SECONDS
        while not wait({future}, _POLL_SECONDS).done:
            now, limit = time.monotonic(), self.hsm.connect_timeout_s
            if now - self._since(waits_since) > limit:
                self.given_up = True
                raise TokenUnavailable(f"given up after {limit:g} s (connect_timeout_s): {self._where()}")
            if now >= told_at:
                told_at = now + _TOLD_AGAIN_SECONDS
                self._tell(f"waiting for HSM {self.hsm.id} since {now - self._began:.0f} s: {self._where()}")
        return future.result()

    def do(self, work: Callable[[], Result]) -> Result:
        """:meth:`begin`, then :meth:`result`."""
        return self.result(self.begin(work))

    def _since(self, waits_since: float) -> float:
        """The moment from which the time counts."""
        if self._connecting:
            return self._began
        inside = self._modules.call_inside(self.hsm, self.ident or 0)
        return waits_since if inside is None else inside.entered_at

    def _where(self) -> str:
        inside = self._modules.call_inside(self.hsm, self.ident or 0)
        if inside is None:
            return self._step
        return f"{self._step}, in {inside.function} since {time.monotonic() - inside.entered_at:.0f} s"
