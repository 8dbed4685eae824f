"""The daemon: roles put together, run as processes, and told what signals ask for."""
