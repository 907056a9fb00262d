"""The `dduomq` command: people and scripts at a prompt, through the public client."""
