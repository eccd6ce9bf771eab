"""The Silentmode agent: dials out from a client and sends the files it is asked for."""

__version__ = "0.1.0"
