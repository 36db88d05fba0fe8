"""Conformance: the contract of a stage, as tests that anyone runs on their own: `pytest --gpt-tui-stage pkg:Class`."""
