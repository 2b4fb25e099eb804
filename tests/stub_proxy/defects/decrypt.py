"""What the checks of `decrypt` must find."""

from stub_proxy.defect import Defect

DEFECTS: tuple[Defect, ...] = ()
