"""What the commands share: output, diagnostics, options, progress."""
