"""`phichat logs` and its subcommands."""
