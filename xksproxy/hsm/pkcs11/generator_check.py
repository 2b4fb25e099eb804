"""Checks that the output of an HSM's random generator does not repeat itself."""

import hmac
import threading
from collections import OrderedDict, deque
from typing import Final

from xksproxy.hsm.errors import GeneratorFailed

_REMEMBERED_IVS: Final = 1024
_REMEMBERED_KEYS: Final = 1024


class GeneratorCheck:
    """Compares the draws from one token's generator, over all sessions of this process. Safe to use from any thread.

    It detects a generator that repeats itself or is constant. It does not detect a weak one; see docs/security.md.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = b""

    def require_new(self, draw: bytes, block_bytes: int) -> None:
        """Compare a draw with the previous one, and its blocks with each other.

        Raises:
            GeneratorFailed: the draw is constant, or repeats itself or the previous one.
        """
        blocks = {draw[at : at + block_bytes] for at in range(0, len(draw), block_bytes)}
        with self._lock:
            last, self._last = self._last, draw
        length = min(len(last), len(draw))
        repeated = length >= block_bytes and hmac.compare_digest(last[:length], draw[:length])
        if repeated or len(blocks) * block_bytes < len(draw) or len(set(draw)) == 1:
            raise GeneratorFailed("the HSM's random generator repeats itself; nothing is encrypted with it")


class IvHistory:
    """The last IVs that the HSM made for each key, in this process. Belongs to the event loop."""

    def __init__(self) -> None:
        self._by_label: OrderedDict[str, tuple[deque[bytes], set[bytes]]] = OrderedDict()

    def require_new(self, label: str, iv: bytes) -> None:
        """Compare an IV with the last 1,024 of its key.

        Raises:
            GeneratorFailed: it was used before.
        """
        entry = self._by_label.get(label)
        if entry is None:
            entry = self._by_label[label] = (deque(), set())
            if len(self._by_label) > _REMEMBERED_KEYS:
                self._by_label.popitem(last=False)
        else:
            self._by_label.move_to_end(label)
        order, known = entry
        if iv in known:
            raise GeneratorFailed("the HSM made an IV that it had made before under the same key; it must not encrypt")
        order.append(iv)
        known.add(iv)
        if len(order) > _REMEMBERED_IVS:
            known.discard(order.popleft())
