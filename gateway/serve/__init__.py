"""The listening process: sockets, signals, and what one client's connection may cost."""
