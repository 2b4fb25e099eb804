"""A module_lock, and a module behind it."""

import pytest
from native_support import Module, ready

from xksproxy.hsm._native import NativeSession
from xksproxy.hsm.pkcs11.module_lock import ModuleLock


@pytest.fixture
def module_lock() -> ModuleLock:
    return ModuleLock()


@pytest.fixture
def module() -> Module:
    return Module()


@pytest.fixture
def native_session(module_lock: ModuleLock, module: Module) -> NativeSession:
    """One that may use key 0 for anything without a fingerprint, and has IVs for a few encryptions."""
    return ready(NativeSession(module_lock, 7, module.functions, 0, False))
