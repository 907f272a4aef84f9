"""Headers that user space sees."""
