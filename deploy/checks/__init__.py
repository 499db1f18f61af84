"""What `deploy.check` goes through, one file a kind of thing."""
