"""Loading stops at weights that are not what the folder says, and says so; wrappers load right."""
