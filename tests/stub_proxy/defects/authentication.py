"""What the checks of `authentication` must find."""

from stub_proxy.defect import Defect

DEFECTS: tuple[Defect, ...] = ()
