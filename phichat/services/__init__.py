"""Services for the front ends: models, backends, transcripts, stored state."""
