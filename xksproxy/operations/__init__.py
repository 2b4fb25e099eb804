"""The meaning of each API call: from a decoded request and a key to a response. No HTTP here."""
