"""A correct XKS proxy in software, which can be made wrong in one named way after another."""
