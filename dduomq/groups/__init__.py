"""Consumer groups as pure machines: who is a member, who reads what, how far they have come."""
