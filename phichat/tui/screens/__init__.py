"""The screens: each consumes the stream or the store, and tells its widgets."""
