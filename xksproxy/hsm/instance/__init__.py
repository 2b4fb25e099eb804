"""One HSM: its sessions, the threads that own them, its keys and its health."""
