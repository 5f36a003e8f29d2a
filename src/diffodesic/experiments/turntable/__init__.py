"""Photographs of turning fruit: from one angle to another, and from one fruit to the next."""
