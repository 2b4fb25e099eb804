"""A gate, and a module behind it."""

import pytest
from crossing_support import Module, ready

from xksproxy.hsm._crossing import Desk
from xksproxy.hsm.gate import Gate


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def module() -> Module:
    return Module()


@pytest.fixture
def desk(gate: Gate, module: Module) -> Desk:
    """One that may use key 0 for anything without a proof, and has IVs for a few encryptions."""
    return ready(Desk(gate, 7, module.functions, 0, False))
