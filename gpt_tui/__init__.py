"""What people see: the command line, the app, settings, and the engine's process. Imports no torch."""
