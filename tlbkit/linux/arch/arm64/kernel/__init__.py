"""arch/arm64/kernel."""
