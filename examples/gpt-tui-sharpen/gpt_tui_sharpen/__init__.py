"""An example of a package that brings a stage and a decoder to gpt-tui."""
