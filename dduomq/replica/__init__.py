"""What replicas of a partition owe one another, as pure machines."""
