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


def test_a_block_of_all_key_stores_applies_until_it_is_removed_and_if_it_cannot_be_read(tmp_path: Path) -> None:
    table = block_table(tmp_path, None)
    of_all = Blocks(table)
    blocks = Blocks(block_table(tmp_path, "payments"), of_all)
    table.update(WHOLE_STORE, lambda _: INCIDENT)
    of_all.refresh()
    assert (blocks.find("one"), blocks.in_force) == (INCIDENT, {WHOLE_STORE: INCIDENT})
    table.update(WHOLE_STORE, lambda _: None)
    of_all.refresh()
    assert (blocks.find("one"), blocks.in_force) == (None, {})

    (tmp_path / "blocks.json").write_text("{")

    with pytest.raises(InternalException):
        Blocks(block_table(tmp_path, "payments"), Blocks(block_table(tmp_path, None))).find("one")
