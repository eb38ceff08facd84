"""Images: what an archive of one says, how its files are laid out on disk, where they are kept, and who has it."""
