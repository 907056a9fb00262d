"""Messages that come later, as pure machines: what is parked, what is due when, and what has been delivered."""
