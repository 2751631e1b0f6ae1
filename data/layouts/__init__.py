"""The row layouts of other frameworks, to native rows and back."""
