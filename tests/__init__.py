"""Tests of dduomq; laid out as the package is."""
