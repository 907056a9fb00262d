"""What the nodes agree on: topics and their configuration, as pure machines behind two ports."""
