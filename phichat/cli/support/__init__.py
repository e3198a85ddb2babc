"""Code that the commands share: output, diagnostics, options, progress."""
