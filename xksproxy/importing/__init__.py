"""Turning the settings of AWS's public sample proxy into a configuration directory of this one."""
