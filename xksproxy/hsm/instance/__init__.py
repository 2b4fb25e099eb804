"""One HSM: its sessions, their threads, its keys and its health."""
