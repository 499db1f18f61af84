"""What the centre knows, in one database, and who may write it."""
