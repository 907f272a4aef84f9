"""The one family of errors that tlbkit raises."""


class TlbkitError(Exception):
    """Base of every error raised by this package."""


class InputError(TlbkitError):
    """What the caller gave is not allowed; the message says what is."""
