"""What front ends are given: models, backends, transcripts, remembered state."""
