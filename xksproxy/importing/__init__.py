"""Import of the settings of AWS's public sample proxy as a configuration directory of this proxy."""
