"""Pages and dialogues of the app: each arranges widgets, none knows the app."""
