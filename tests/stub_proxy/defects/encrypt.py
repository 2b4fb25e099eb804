"""What the checks of `encrypt` must find."""

from stub_proxy.defect import Defect

DEFECTS: tuple[Defect, ...] = ()
