"""Labelled data sets, read in the folders that their publishers ship."""
