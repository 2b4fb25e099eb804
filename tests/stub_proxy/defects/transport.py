"""What the checks of `transport` must find."""

from stub_proxy.defect import Defect

DEFECTS: tuple[Defect, ...] = ()
