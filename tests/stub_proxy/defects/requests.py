"""What the checks of `requests` must find."""

from stub_proxy.defect import Defect

DEFECTS: tuple[Defect, ...] = ()
