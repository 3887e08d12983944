"""How a direction is found."""
