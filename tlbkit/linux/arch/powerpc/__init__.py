"""arch/powerpc/."""
