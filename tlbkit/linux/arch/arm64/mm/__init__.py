"""arch/arm64/mm."""
