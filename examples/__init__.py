"""Example inputs that ship with the package: a lab's notes, a label table, the quickstart's keys."""
