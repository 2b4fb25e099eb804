"""What the checks of `errors` must find."""

from stub_proxy.defect import Defect

DEFECTS: tuple[Defect, ...] = ()
