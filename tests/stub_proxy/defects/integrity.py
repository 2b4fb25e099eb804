"""What the checks of `integrity` must find."""

from stub_proxy.defect import Defect

DEFECTS: tuple[Defect, ...] = ()
