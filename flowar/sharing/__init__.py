"""Models for others: the card that goes with one."""
