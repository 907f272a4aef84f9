"""The one family of errors that tlbkit raises."""


class TlbkitError(Exception):
    """Base of every error raised by this package."""


class InputError(TlbkitError):
    """A name, a value or a file is not one that is allowed; the message says which are."""
