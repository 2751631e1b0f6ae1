"""Readers of published annotation files. Each yields plain rows of the native layout for the tasks."""
