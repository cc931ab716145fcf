"""Brings the files of a model here: of its weights only the bytes of the layers computed here."""
