"""What the checks of `health` must find."""

from stub_proxy.defect import Defect

DEFECTS: tuple[Defect, ...] = ()
