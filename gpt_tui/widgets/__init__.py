"""Widgets: given data down, they post past-tense messages up. None knows a screen, the app, settings or torch."""
