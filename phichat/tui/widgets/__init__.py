"""What the screens are made of; widgets know nothing of engine or store."""
