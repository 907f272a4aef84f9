"""arch/arm64/include/asm."""
