"""The product under attack: kills, failed writes, damage, hostile input."""
