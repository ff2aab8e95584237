"""The whole chain on 700 real blood cells, from one command."""
