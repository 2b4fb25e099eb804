"""What the checks of `metadata` must find."""

from stub_proxy.defect import Defect

DEFECTS: tuple[Defect, ...] = ()
