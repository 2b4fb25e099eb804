"""What the checks of `timing` must find."""

from stub_proxy.defect import Defect

DEFECTS: tuple[Defect, ...] = ()
