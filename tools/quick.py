"""Imported before nbformat: jsonschema, which it loads, would build a grammar of addresses for two seconds, and no notebook has an address to check."""
import sys

sys.modules["rfc3987_syntax"] = None
