"""arch/powerpc/mm/ptdump/."""
