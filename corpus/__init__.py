"""Ontologies, literature and cells become searchable snippets, profiles and shards."""
