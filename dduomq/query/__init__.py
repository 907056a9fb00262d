"""Looking into records: which of them a consumer wants."""
