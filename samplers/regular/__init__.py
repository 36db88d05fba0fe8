"""Regular expressions over a vocabulary: from a pattern to the tokens that may follow. regex.py is the stage."""
