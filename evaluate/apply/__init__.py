"""A trained run on a file that it never saw: vectors, cell types, and cells found by a sentence."""
