"""The four operations of the XKS API: each makes a response from a decoded request. Nothing here depends on HTTP."""
