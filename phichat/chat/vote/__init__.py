"""Choose among several replies to one prompt by majority vote."""
