"""Protocol, connections and supervision of engine processes."""
