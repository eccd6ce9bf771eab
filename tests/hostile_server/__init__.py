"""A server that was taken over, against the real agent: nothing outside the roots leaves the machine."""
