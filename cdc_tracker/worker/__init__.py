"""The daemon: its roles as processes, their supervision and signals; assemble.py is the composition root of everything."""
