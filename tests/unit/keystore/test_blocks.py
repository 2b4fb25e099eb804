"""Which keys the blocks of an operator refuse."""

from pathlib import Path

import pytest

from xksproxy.keystore.blocks import Blocks
from xksproxy.spec.errors import InternalException
from xksproxy.state.blocks import WHOLE_STORE, Block, block_table

INCIDENT = Block(since=1_700_000_000.0, reason="incident")
AUDIT = Block(since=1_700_000_001.0, reason="audit")


def test_a_block_of_the_whole_key_store_applies_to_every_key(tmp_path: Path) -> None:
    blocks = Blocks(block_table(tmp_path, "payments"))
    block_table(tmp_path, "payments").update(WHOLE_STORE, lambda _: INCIDENT)
    blocks.refresh()

    assert (blocks.find("one"), blocks.find("two")) == (INCIDENT, INCIDENT)


def test_a_block_of_the_whole_key_store_does_not_end_with_the_block_of_a_key(tmp_path: Path) -> None:
    table = block_table(tmp_path, "payments")
    table.update(WHOLE_STORE, lambda _: INCIDENT)
    table.update("one", lambda _: AUDIT)
    blocks = Blocks(block_table(tmp_path, "payments"))
    assert blocks.find("one") == INCIDENT

    table.update("one", lambda _: None)
    blocks.refresh()

    assert blocks.find("one") == INCIDENT


def test_a_block_of_a_key_leaves_other_keys_alone(tmp_path: Path) -> None:
    block_table(tmp_path, "payments").update("one", lambda _: AUDIT)
    blocks = Blocks(block_table(tmp_path, "payments"))

    assert (blocks.find("one"), blocks.find("two")) == (AUDIT, None)


def test_a_key_is_refused_until_the_blocks_have_been_readable_once(tmp_path: Path) -> None:
    path = tmp_path / "blocks-payments.json"
    path.write_text("{")
    path.chmod(0o600)
    blocks = Blocks(block_table(tmp_path, "payments"))
    with pytest.raises(InternalException):
        blocks.find("one")

    path.unlink()
    blocks.refresh()

    assert blocks.find("one") is None
