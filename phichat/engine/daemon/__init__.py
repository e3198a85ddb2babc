"""An engine process that outlives its client and serves later ones."""
