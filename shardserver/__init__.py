"""A kernel-bypass TCP server: one pinned worker with its own TCP/IP stack per NIC ring."""

__version__ = "0.1.0"
