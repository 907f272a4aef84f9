"""arch/powerpc/mm/."""
