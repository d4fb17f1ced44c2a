"""What a user can ask for: the settings, how they are typed, and where they come from."""
