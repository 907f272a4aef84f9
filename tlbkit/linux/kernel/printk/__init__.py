"""kernel/printk/."""
