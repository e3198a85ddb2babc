"""What the keys, messages and slash commands of the chat screen do: one controller for each kind of thing."""
